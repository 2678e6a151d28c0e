"""Measurements, one command for each claim: how fast and how right the product is, and how it is built."""
