"""kie.ai: its jobs and its callbacks, without I/O."""
