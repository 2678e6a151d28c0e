"""Training a shipped model configuration with mmengine's Runner."""
