"""OpenAI Images API: its protocol without I/O, and the client."""
