"""TensorRT and TensorRT-RTX engines, through the NVIDIA driver and numpy alone."""
