"""Handing in jobs: the desk, and the two ways in which an answer comes at once, a stream and a direct call."""
