"""A plan to measurements: the only stage with state."""
