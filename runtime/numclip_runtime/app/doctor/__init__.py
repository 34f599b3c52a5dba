"""`numclip-run doctor`: the facts about this machine, and whether a model can run on it.

Nothing that may crash runs in this process: onnxruntime's providers are tried in others;
TensorRT and torch are looked up, and not imported.
"""
