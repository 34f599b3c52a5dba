"""The CUDA driver through ctypes: memory, streams, events and graphs without a package.

The driver's library comes with the driver, on a PC and on a Jetson: nothing to install, and no CUDA
version to match. Its primary context is the one that TensorRT uses, which makes pointers
and streams of one valid in the other. Nothing here loads the library before a `CudaContext` is
made.

Ownership: the code that makes a buffer, stream, event or graph owns it. `close` frees it; otherwise
it is freed when Python collects it, or at exit, always before the context. A context lives as long
as any resource that was made in it.

Verified on an H200 by `benchmarks/gpu_proof.py`, see `benchmarks/results/gpu-proof.json`. Tests run
it against a stand-in driver, whose functions compile against NVIDIA's cuda.h of CUDA 12.6 and 13.5.
"""
