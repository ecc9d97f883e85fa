"""Complete processes timed against each other on generated pairs of checkpoints: `make bench`."""
