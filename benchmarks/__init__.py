"""Measurements: how fast and how right the tools are."""
