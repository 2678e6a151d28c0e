"""What the numbers are: detection metrics, latency, verification, and the report of a run."""

from __future__ import annotations
