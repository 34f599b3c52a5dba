/* A stand-in for NVIDIA's driver library, for tests on machines without a GPU: the functions that
 * numclip_runtime calls, over host memory. It is stricter than it is fast:
 *  - work on a stream waits until the stream is synchronised, so that a result read too early is
 *    wrong, and device memory starts as 0xCD;
 *  - pointers, handles and the calling thread's context are checked;
 *  - all that is made is counted, and every call is logged.
 * Compile: cc -shared -fPIC -o libcuda.so.1 standin_driver.c -lpthread
 * Check against NVIDIA's declarations: add -DWITH_CUDA_H -I<folder of cuda.h> (done with the
 * headers of CUDA 12.6 and 13.5). It computes nothing itself: a stand-in for TensorRT enqueues its
 * work with standin_enqueue. */
#ifdef WITH_CUDA_H
#define __CUDA_API_VERSION_INTERNAL /* no macros that rename functions; old ones declared, too */
#include <cuda.h>
#else
#include <stddef.h>
#include <stdint.h>
typedef int CUresult;
typedef int CUdevice;
typedef int CUdevice_attribute;
typedef int CUstreamCaptureMode;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 100, INVALID_DEVICE, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_READY = 600, UNSUPPORTED = 900, INVALIDATED };
enum { DEVICE, PINNED, STREAM, EVENT, GRAPH, EXEC, RETAINED, KINDS };
enum { MOST = 4096, DEPTH = 16 };

typedef struct { int kind; char *at; size_t size; } Thing;
typedef struct { void (*run)(void *); void *target; const void *source; size_t size;
                 struct CUevent_st *event; struct CUgraphExec_st *exec; } Op;
typedef struct { Op *ops; int count; } Queue;
struct CUstream_st { Queue queue, captured; int capturing, broken; };
struct CUevent_st { double at; int happened; };
struct CUgraph_st { Queue queue; };
struct CUgraphExec_st { Queue queue; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Thing things[MOST];
static int live[KINDS], pushed;
static char written[1 << 20], failing[64];
static int failing_status, failing_after, clock_ms;
static _Thread_local int depth;

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

/* Log the call; return what standin_fail wants it to return. */
static int called(const char *function) {
  pthread_mutex_lock(&mutex);
  size_t used = strlen(written);
  snprintf(written + used, sizeof written - used, "%s\n", function);
  int status = OK;
  if (!strcmp(failing, function) && failing_after-- <= 0) {
    status = failing_status;
    failing[0] = 0;
  }
  pthread_mutex_unlock(&mutex);
  return status;
}
#define BEGIN(context_needed) \
  do { \
    int status_ = called(__func__); \
    if (status_) return status_; \
    if ((context_needed) && !depth) return INVALID_CONTEXT; \
  } while (0)

static void *add(int kind, size_t size) {
  char *at = malloc(size ? size : 1);
  pthread_mutex_lock(&mutex);
  for (int i = 0; at && i < MOST; i++)
    if (!things[i].at) {
      things[i] = (Thing){kind, at, size};
      live[kind]++;
      break;
    }
  pthread_mutex_unlock(&mutex);
  return at;
}
/* Tell whether size bytes from at on lie in a living thing of this kind. */
static int inside(int kind, const void *at, size_t size) {
  for (int i = 0; i < MOST; i++)
    if (things[i].at && things[i].kind == kind && (const char *)at >= things[i].at &&
        (const char *)at + size <= things[i].at + things[i].size)
      return 1;
  return 0;
}
static int drop(int kind, void *at) {
  for (int i = 0; i < MOST; i++)
    if (things[i].at && things[i].at == (char *)at && things[i].kind == kind) {
      pthread_mutex_lock(&mutex);
      things[i].at = NULL;
      live[kind]--;
      pthread_mutex_unlock(&mutex);
      memset(at, 0xDD, things[i].size); /* who reads it after that reads nonsense */
      free(at);
      return OK;
    }
  return INVALID_HANDLE;
}
static void append(Queue *queue, Op op) {
  queue->ops = realloc(queue->ops, sizeof(Op) * (queue->count + 1));
  queue->ops[queue->count++] = op;
}
static int enqueue(CUstream stream, Op op) {
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  append(stream->capturing ? &stream->captured : &stream->queue, op);
  return OK;
}
static void run(Queue *queue) {
  for (int i = 0; i < queue->count; i++) {
    Op op = queue->ops[i];
    if (op.exec) run(&op.exec->queue);
    else if (op.event) op.event->at = ++clock_ms, op.event->happened = 1;
    else if (op.run) op.run(op.target);
    else memcpy(op.target, op.source, op.size);
  }
}

/* What tests call. */
int standin_live(int kind) { return live[kind]; }
int standin_pushed(void) { return pushed; }
const char *standin_calls(void) { return written; }
void standin_forget(void) { written[0] = failing[0] = 0; }
void standin_fail(const char *function, int status, int after) {
  snprintf(failing, sizeof failing, "%s", function);
  failing_status = status, failing_after = after;
}
/* Enqueue a kernel. One that is not capturable breaks a capture, as cudaMalloc would. */
int standin_enqueue(void (*kernel)(void *), void *argument, CUstream stream, int capturable) {
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (stream->capturing && !capturable) return stream->broken = 1, UNSUPPORTED;
  return enqueue(stream, (Op){.run = kernel, .target = argument});
}
int standin_is_capturing(CUstream stream) { return stream->capturing; }
int standin_is_device(const void *at, size_t size) { return inside(DEVICE, at, size); }

/* What numclip_runtime calls. */
CUresult cuInit(unsigned flags) {
  BEGIN(0);
  (void)flags;
  return number("STANDIN_DEVICES", 1) ? OK : NO_DEVICE;
}
CUresult cuGetErrorName(CUresult code, const char **text) {
  *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
        : code == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
        : code == INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE"
        : code == UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : NULL;
  return *text ? OK : INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
  *text = code == OUT_OF_MEMORY ? "out of memory"
        : code == INVALID_CONTEXT ? "invalid device context"
        : code == INVALID_HANDLE ? "invalid resource handle"
        : code == UNSUPPORTED ? "operation not permitted when stream is capturing" : NULL;
  return *text ? OK : INVALID_VALUE;
}
CUresult cuDriverGetVersion(int *version) {
  BEGIN(0);
  *version = 13000;
  return OK;
}
CUresult cuDeviceGetCount(int *count) {
  BEGIN(0);
  *count = number("STANDIN_DEVICES", 1);
  return OK;
}
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  BEGIN(0);
  *device = ordinal;
  return ordinal < number("STANDIN_DEVICES", 1) ? OK : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int size, CUdevice device) {
  BEGIN(0);
  snprintf(name, size, "Stand-in GPU %d", device);
  return OK;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  BEGIN(0);
  int capability = number("STANDIN_CAPABILITY", 86);
  (void)device;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
  return OK;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  BEGIN(0);
  live[RETAINED]++;
  *context = (CUcontext)(size_t)(0x1000 + device);
  return OK;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  BEGIN(0);
  (void)device;
  if (live[RETAINED] <= 0) return INVALID_CONTEXT;
  live[RETAINED]--;
  return OK;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) {
  BEGIN(0);
  if ((size_t)context < 0x1000 || live[RETAINED] <= 0 || depth == DEPTH) return INVALID_CONTEXT;
  depth++;
  __atomic_add_fetch(&pushed, 1, __ATOMIC_SEQ_CST);
  return OK;
}
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
  BEGIN(1);
  *context = (CUcontext)0x1000;
  depth--;
  __atomic_sub_fetch(&pushed, 1, __ATOMIC_SEQ_CST);
  return OK;
}
CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
  BEGIN(1);
  if (!size) return INVALID_VALUE;
  if (size > (size_t)1 << 32) return OUT_OF_MEMORY;
  void *at = add(DEVICE, size);
  memset(at, 0xCD, size);
  *pointer = (CUdeviceptr)(size_t)at;
  return OK;
}
CUresult cuMemFree_v2(CUdeviceptr pointer) {
  BEGIN(1);
  return drop(DEVICE, (void *)(size_t)pointer) ? INVALID_VALUE : OK;
}
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
  BEGIN(1);
  if (!size || flags) return INVALID_VALUE;
  if (size > (size_t)1 << 32) return OUT_OF_MEMORY;
  *pointer = add(PINNED, size);
  memset(*pointer, 0xCD, size);
  return OK;
}
CUresult cuMemFreeHost(void *pointer) {
  BEGIN(1);
  return drop(PINNED, pointer) ? INVALID_VALUE : OK;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
  BEGIN(1);
  void *target = (void *)(size_t)to;
  if (!inside(DEVICE, target, size)) return INVALID_VALUE;
  return enqueue(stream, (Op){.target = target, .source = from, .size = size});
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  BEGIN(1);
  const void *source = (const void *)(size_t)from;
  if (!inside(DEVICE, source, size)) return INVALID_VALUE;
  return enqueue(stream, (Op){.target = to, .source = source, .size = size});
}
CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  BEGIN(1);
  if (flags != 1) return INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
  *stream = add(STREAM, sizeof **stream);
  memset(*stream, 0, sizeof **stream);
  return OK;
}
CUresult cuStreamSynchronize(CUstream stream) {
  BEGIN(1);
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (stream->capturing) return stream->broken = 1, UNSUPPORTED;
  run(&stream->queue);
  stream->queue.count = 0;
  return OK;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  BEGIN(1);
  return drop(STREAM, stream);
}
CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  BEGIN(1);
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (stream->capturing || (int)mode != 1) return INVALID_VALUE; /* thread local */
  stream->capturing = 1, stream->broken = 0;
  stream->captured = (Queue){0};
  return OK;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  BEGIN(1);
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (!stream->capturing) return INVALID_VALUE;
  stream->capturing = 0;
  *graph = NULL;
  if (stream->broken) return INVALIDATED;
  *graph = add(GRAPH, sizeof **graph);
  (*graph)->queue = stream->captured;
  return OK;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
  BEGIN(1);
  if (!inside(GRAPH, graph, sizeof *graph) || flags) return INVALID_VALUE;
  *exec = add(EXEC, sizeof **exec);
  (*exec)->queue = (Queue){0};
  for (int i = 0; i < graph->queue.count; i++) append(&(*exec)->queue, graph->queue.ops[i]);
  return OK;
}
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  BEGIN(1);
  if (!inside(EXEC, exec, sizeof *exec)) return INVALID_HANDLE;
  return enqueue(stream, (Op){.exec = exec});
}
CUresult cuGraphExecDestroy(CUgraphExec exec) {
  BEGIN(1);
  return drop(EXEC, exec);
}
CUresult cuGraphDestroy(CUgraph graph) {
  BEGIN(1);
  return drop(GRAPH, graph);
}
CUresult cuEventCreate(CUevent *event, unsigned flags) {
  BEGIN(1);
  if (flags) return INVALID_VALUE;
  *event = add(EVENT, sizeof **event);
  (*event)->happened = 0;
  return OK;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  BEGIN(1);
  if (!inside(EVENT, event, sizeof *event)) return INVALID_HANDLE;
  event->happened = 0;
  return enqueue(stream, (Op){.event = event});
}
/* Waits for nothing: only synchronising the stream runs it. */
CUresult cuEventSynchronize(CUevent event) {
  BEGIN(1);
  if (!inside(EVENT, event, sizeof *event)) return INVALID_HANDLE;
  return event->happened ? OK : NOT_READY;
}
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  BEGIN(1);
  if (!start->happened || !end->happened) return NOT_READY;
  *milliseconds = (float)(end->at - start->at);
  return OK;
}
CUresult cuEventDestroy_v2(CUevent event) {
  BEGIN(1);
  return drop(EVENT, event);
}
