"""BFL (Black Forest Labs, FLUX): its tasks and its signed callbacks, without I/O."""
