"""OpenAI as a dialect: its answer is the result, so there are no callbacks and no polls."""

from receiver.model import Provider
from receiver.providers.openai import protocol


class OpenAI:
    """OpenAI's Images API."""

    provider = Provider.OPENAI
    key_name = "OPENAI_API_KEY"
    url_lifetime = None
    signs_bodies = False
    read_report = staticmethod(protocol.read_report)
    read_picture = staticmethod(protocol.read_picture)
