"""MLPerf's scenarios for a detector: one stream, a constant rate, and as many frames as it can."""
