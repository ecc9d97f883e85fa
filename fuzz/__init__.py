"""Damaged and hostile files for every reader: `python -m fuzz --seconds 600`."""
