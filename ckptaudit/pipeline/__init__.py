"""The whole trip, from two paths to a result."""
