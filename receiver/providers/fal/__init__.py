"""fal: its queue API and its signed callbacks, without I/O."""
