"""Recordings of detections to look at: points, ground truth and the boxes of every backend over time."""
