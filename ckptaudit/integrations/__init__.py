"""Audits from inside other tools."""
