"""The protocol and the client of each provider."""
