"""Sparse delta files: the entries of each weight that training changed, and their new values."""
