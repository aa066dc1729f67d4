"""The processes of ``receiver serve``: supervisor, children, socket, gunicorn worker class."""
