"""Receives the callbacks of paid image generation and brings the pictures safely home."""
