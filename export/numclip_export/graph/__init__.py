"""ONNX graphs: exporting, editing and running them."""
