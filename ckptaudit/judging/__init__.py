"""Measurements to verdicts: checks, limits, configuration, waivers, and the decision."""
