"""The processes of the service: the supervisor, its children, the web server's workers, the worker."""
