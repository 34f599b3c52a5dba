"""`numclip-run doctor`: what this machine has, and whether a model can run on it.

Nothing that may crash runs in this process: onnxruntime's providers are tried in processes of their
own, TensorRT and torch are not imported at all, only looked up.
"""
