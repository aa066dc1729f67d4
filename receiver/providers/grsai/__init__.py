"""GRSAI: its protocol without I/O, and the HTTP client."""
