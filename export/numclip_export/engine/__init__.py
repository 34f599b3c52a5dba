"""Build TensorRT engines (plans) from ONNX files that numclip exported.

Runs where engines are built, such as a Jetson: it needs numpy, click, numclip_runtime and the
TensorRT binding, and neither torch nor onnx. If onnx is installed, `turing` uses it.
"""
