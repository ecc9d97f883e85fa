"""Renderings of what an audit found. Nothing here measures or decides."""
