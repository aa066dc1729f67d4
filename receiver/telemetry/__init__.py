"""What the service tells of itself: logs, figures, traces, and what must not be told."""
