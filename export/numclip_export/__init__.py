"""Fold a NumCLIP checkpoint and write it as a verified ONNX model."""
