"""Build TensorRT engines (plans) from ONNX files that numclip exported.

Runs where engines are built, such as a Jetson: numpy, click, numclip_runtime and the TensorRT
binding are all it imports; neither torch nor onnx.
"""
