"""INT8: quantized modules, calibration, post-training quantization, sensitivity and quantization-aware training."""
