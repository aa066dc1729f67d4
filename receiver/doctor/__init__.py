"""Is everything as it must be? ``examine`` asks, and ``verdict`` is what others need of its answer."""
