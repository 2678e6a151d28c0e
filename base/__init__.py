"""Shared vocabulary of every package: errors, boxes, files, lazy imports, untrusted input, determinism."""
