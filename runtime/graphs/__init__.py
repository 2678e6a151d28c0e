"""Detectors that are one CUDA graph from points to boxes, and what opens them."""
