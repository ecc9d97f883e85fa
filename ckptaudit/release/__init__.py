"""What follows from a result: signed evidence of it, and the release that waits for an open gate."""
