"""Training with everything on the device: frames, augmentation, pillars, targets and network."""
