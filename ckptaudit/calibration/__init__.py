"""Trusted runs to limits."""
