"""The vehicle: bundles for Autoware's lidar_centerpoint, its contract, what its decoding and thresholds are."""
