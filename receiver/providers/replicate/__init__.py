"""Replicate: its predictions and its signed callbacks, without I/O."""
