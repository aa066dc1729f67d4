"""From a result URL to an object in the archive: download, inspect, store, and the manifest beside it."""
