"""The CUDA driver through ctypes: memory, streams, events and graphs without a package.

The driver's library comes with the driver, on a PC and on a Jetson, so nothing has to be installed
or to match a CUDA version. Its primary context is the one that TensorRT uses, which makes pointers
and streams of one valid in the other. Nothing here loads the library before a `CudaContext` is
made.

Rules of ownership: whoever makes a buffer, stream, event or graph owns it. `close` frees it; what
is not closed is freed when Python collects it, or at exit, always before the context. A context
lives as long as anything that was made in it.

Not verified on hardware: tests run it against a stand-in driver, whose functions compile against
NVIDIA's cuda.h of CUDA 12.6 and 13.5.
"""

from numclip_runtime.cuda.api import CudaError
from numclip_runtime.cuda.buffers import DeviceBuffer, PinnedBuffer
from numclip_runtime.cuda.context import CudaContext
from numclip_runtime.cuda.stream import Event, Graph, Stream

__all__ = [
    "CudaContext",
    "CudaError",
    "DeviceBuffer",
    "Event",
    "Graph",
    "PinnedBuffer",
    "Stream",
]
