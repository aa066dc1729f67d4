"""The processes of ``receiver serve``: supervisor, children, listening socket and gunicorn worker class."""
