"""The paths of OpenAI's Images API: any tool that knows that API posts jobs by its base URL.

``routes`` are the operations, ``waiting_clients`` the clients that wait for their pictures,
``picture_response`` what they get, ``errors`` OpenAI's form of errors.
"""

from receiver.web.v1 import routes
from receiver.web.v1.errors import blueprint, failure

__all__ = ["blueprint", "failure", "routes"]
