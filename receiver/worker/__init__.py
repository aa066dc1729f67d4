"""The worker: engines that claim due rows and run them in threads."""
