"""Receives the callbacks of paid image generation, and archives the pictures."""
