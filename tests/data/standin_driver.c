/* A stand-in for NVIDIA's driver library, for tests on machines without a GPU: the functions that
 * numclip_runtime calls, over host memory. It is stricter than it is fast:
 *  - work on a stream waits until the stream is synchronised, so that a result read too early is
 *    wrong, and device memory starts as 0xCD;
 *  - after standin_delays, streams work by themselves, as on a GPU: a thread each, and three engines
 *    that all share, one for copies to the device, one for kernels, one for copies back. Each takes
 *    one piece of work at a time, which lasts as long as the test says, and is recorded;
 *  - pointers, handles and the calling thread's context are checked, memory once more before and
 *    after a copy runs: what was freed under way is counted as a fault;
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
#include <time.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 100, INVALID_DEVICE, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_READY = 600, UNSUPPORTED = 900, INVALIDATED };
enum { DEVICE, PINNED, STREAM, EVENT, GRAPH, EXEC, RETAINED, KINDS };
enum { UPLOAD, KERNEL, DOWNLOAD, ENGINES };
enum { MOST = 4096, DEPTH = 16, SPANS = 65536 };

typedef struct { int kind; char *at; size_t size; } Thing;
/* A kernel has run, an event event, a launched graph exec; the rest are copies. */
typedef struct { void (*run)(void *); void *target; const void *source; size_t size; int engine;
                 int pinned; struct CUevent_st *event; struct CUgraphExec_st *exec; } Op;
typedef struct { Op *ops; int count; } Queue;
typedef struct { double stream, engine, start, end; } Span;
struct CUstream_st { Queue queue, captured; int capturing, broken, id, busy, threaded, ending;
                     pthread_t thread; };
struct CUevent_st { double at; int happened; };
struct CUgraph_st { Queue queue; };
struct CUgraphExec_st { Queue queue; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of all below but the engines */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* a queue, or who works on it */
static pthread_mutex_t engines[ENGINES] = {
  PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static Thing things[MOST];
static Span spans[SPANS];
static int live[KINDS], pushed, known, num_spans, num_streams, faults;
static char written[1 << 20], failing[64];
static size_t length;
static int failing_status, failing_after, clock_ms, concurrent, delays_us[ENGINES];
static _Thread_local int depth;

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}
static double now(void) { /* seconds */
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* Log the call; return what standin_fail wants it to return. */
static int called(const char *function) {
  pthread_mutex_lock(&mutex);
  size_t size = strlen(function) + 1;
  if (length + size < sizeof written) {
    memcpy(written + length, function, size);
    written[length + size - 1] = '\n';
    written[length += size] = 0;
  }
  int status = OK;
  if (failing[0] && !strcmp(failing, function) && failing_after-- <= 0) {
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
  char *at = calloc(1, size ? size : 1);
  pthread_mutex_lock(&mutex);
  for (int i = 0; at && i < MOST; i++)
    if (!things[i].at) {
      things[i] = (Thing){kind, at, size};
      live[kind]++;
      if (known <= i) known = i + 1;
      break;
    }
  pthread_mutex_unlock(&mutex);
  return at;
}
/* Tell whether size bytes from at on lie in a living thing of this kind. */
static int inside(int kind, const void *at, size_t size) {
  int found = 0;
  pthread_mutex_lock(&mutex);
  for (int i = 0; !found && i < known; i++)
    found = things[i].at && things[i].kind == kind && (const char *)at >= things[i].at &&
            (const char *)at + size <= things[i].at + things[i].size;
  pthread_mutex_unlock(&mutex);
  return found;
}
static int drop(int kind, void *at) {
  size_t size = 0;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < known; i++)
    if (things[i].at && things[i].at == (char *)at && things[i].kind == kind) {
      things[i].at = NULL;
      size = things[i].size;
      live[kind]--;
      break;
    }
  pthread_mutex_unlock(&mutex);
  if (!size) return INVALID_HANDLE;
  memset(at, 0xDD, size); /* who reads it after that reads nonsense */
  free(at);
  return OK;
}
static void append(Queue *queue, Op op) {
  queue->ops = realloc(queue->ops, sizeof(Op) * (queue->count + 1));
  queue->ops[queue->count++] = op;
}
static void fault(void) {
  pthread_mutex_lock(&mutex);
  faults++;
  pthread_mutex_unlock(&mutex);
}
/* Tell whether both ends of a copy are still there. */
static int sound(const Op *op) {
  const void *device = op->engine == UPLOAD ? op->target : op->source;
  const void *host = op->engine == UPLOAD ? op->source : op->target;
  return inside(DEVICE, device, op->size) && (!op->pinned || inside(PINNED, host, op->size));
}
static void perform(const Op *op, int stream) {
  if (op->exec) {
    if (!inside(EXEC, op->exec, sizeof *op->exec)) return fault();
    for (int i = 0; i < op->exec->queue.count; i++) perform(&op->exec->queue.ops[i], stream);
    return;
  }
  if (op->event) {
    op->event->at = concurrent ? 1e3 * now() : ++clock_ms;
    op->event->happened = 1;
    return;
  }
  pthread_mutex_lock(&engines[op->engine]);
  double start = now();
  if (op->run) op->run(op->target);
  else if (sound(op)) memcpy(op->target, op->source, op->size);
  else fault();
  double left = concurrent ? start + 1e-6 * delays_us[op->engine] - now() : 0;
  if (left > 0)
    nanosleep(&(struct timespec){(time_t)left, (long)(1e9 * (left - (time_t)left))}, NULL);
  if (!op->run && !sound(op)) fault();
  double end = now();
  pthread_mutex_lock(&mutex);
  if (concurrent && num_spans < SPANS)
    spans[num_spans++] = (Span){stream, op->engine, start, end};
  pthread_mutex_unlock(&mutex);
  pthread_mutex_unlock(&engines[op->engine]);
}
/* Take the first piece of work off a queue and do it; the mutex is held, and let go meanwhile. */
static void step(CUstream stream) {
  Op op = stream->queue.ops[0];
  memmove(stream->queue.ops, stream->queue.ops + 1, sizeof op * --stream->queue.count);
  stream->busy = 1;
  pthread_mutex_unlock(&mutex);
  perform(&op, stream->id);
  pthread_mutex_lock(&mutex);
  stream->busy = 0;
  pthread_cond_broadcast(&changed);
}
static void *work(void *argument) {
  CUstream stream = argument;
  pthread_mutex_lock(&mutex);
  while (stream->queue.count || !stream->ending) {
    if (stream->queue.count) step(stream);
    else pthread_cond_wait(&changed, &mutex);
  }
  pthread_mutex_unlock(&mutex);
  return NULL;
}
static int enqueue(CUstream stream, Op op) {
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  pthread_mutex_lock(&mutex);
  append(stream->capturing ? &stream->captured : &stream->queue, op);
  if (concurrent && !stream->capturing && !stream->threaded)
    stream->threaded = !pthread_create(&stream->thread, NULL, work, stream);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  return OK;
}
static int copy(CUstream stream, int engine, void *to, const void *from, size_t size) {
  Op op = {.engine = engine, .target = to, .source = from, .size = size};
  op.pinned = inside(PINNED, engine == UPLOAD ? from : to, size);
  return sound(&op) ? enqueue(stream, op) : INVALID_VALUE;
}

/* What tests call. */
int standin_live(int kind) { return live[kind]; }
int standin_pushed(void) { return pushed; }
int standin_faults(void) { return faults; }
const char *standin_calls(void) { return written; }
void standin_forget(void) {
  pthread_mutex_lock(&mutex);
  written[0] = failing[0] = 0;
  length = num_spans = faults = 0;
  pthread_mutex_unlock(&mutex);
}
void standin_fail(const char *function, int status, int after) {
  snprintf(failing, sizeof failing, "%s", function);
  failing_status = status, failing_after = after;
}
/* Let streams work by themselves, or, with a negative time, when they are synchronised. */
void standin_delays(int upload_us, int kernel_us, int download_us) {
  concurrent = upload_us >= 0;
  delays_us[UPLOAD] = upload_us, delays_us[KERNEL] = kernel_us, delays_us[DOWNLOAD] = download_us;
}
/* Copy the record of what ran, in the order of its ends; return how much there is. */
int standin_spans(Span *out, int most) {
  pthread_mutex_lock(&mutex);
  int count = num_spans;
  memcpy(out, spans, sizeof *out * (count < most ? count : most));
  pthread_mutex_unlock(&mutex);
  return count;
}
/* Enqueue a kernel. One that is not capturable breaks a capture, as cudaMalloc would. */
int standin_enqueue(void (*kernel)(void *), void *argument, CUstream stream, int capturable) {
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (stream->capturing && !capturable) return stream->broken = 1, UNSUPPORTED;
  return enqueue(stream, (Op){.run = kernel, .target = argument, .engine = KERNEL});
}
void standin_nothing(void *argument) { (void)argument; } /* a kernel */
/* Be what cudaDeviceSynchronize is to captures: it breaks them all, whatever thread they are in. */
int standin_synchronize_device(void) {
  int status = OK;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < known; i++)
    if (things[i].at && things[i].kind == STREAM && ((CUstream)(void *)things[i].at)->capturing)
      ((CUstream)(void *)things[i].at)->broken = 1, status = UNSUPPORTED;
  pthread_mutex_unlock(&mutex);
  return status;
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
        : code == UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
        : code == INVALIDATED ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" : NULL;
  return *text ? OK : INVALID_VALUE;
}
CUresult cuGetErrorString(CUresult code, const char **text) {
  *text = code == OUT_OF_MEMORY ? "out of memory"
        : code == INVALID_CONTEXT ? "invalid device context"
        : code == INVALID_HANDLE ? "invalid resource handle"
        : code == UNSUPPORTED ? "operation not permitted when stream is capturing"
        : code == INVALIDATED ? "operation failed due to a previous error during capture" : NULL;
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
  return copy(stream, UPLOAD, (void *)(size_t)to, from, size);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  BEGIN(1);
  return copy(stream, DOWNLOAD, to, (const void *)(size_t)from, size);
}
CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  BEGIN(1);
  if (flags != 1) return INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
  *stream = add(STREAM, sizeof **stream);
  (*stream)->id = __atomic_fetch_add(&num_streams, 1, __ATOMIC_SEQ_CST);
  return OK;
}
CUresult cuStreamSynchronize(CUstream stream) {
  BEGIN(1);
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  if (stream->capturing) return stream->broken = 1, UNSUPPORTED;
  pthread_mutex_lock(&mutex);
  while (stream->queue.count || stream->busy) {
    if (stream->threaded || stream->busy) pthread_cond_wait(&changed, &mutex);
    else step(stream);
  }
  pthread_mutex_unlock(&mutex);
  return OK;
}
/* CUDA lets its work end after that; whoever frees memory then has forgotten to wait. */
CUresult cuStreamDestroy_v2(CUstream stream) {
  BEGIN(1);
  if (!inside(STREAM, stream, sizeof *stream)) return INVALID_HANDLE;
  pthread_mutex_lock(&mutex);
  if (concurrent && (stream->queue.count || stream->busy)) faults++;
  stream->ending = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  if (stream->threaded) pthread_join(stream->thread, NULL);
  free(stream->queue.ops);
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
  if (stream->broken) return free(stream->captured.ops), INVALIDATED;
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
  if (!inside(EXEC, exec, sizeof *exec)) return INVALID_HANDLE;
  free(exec->queue.ops);
  return drop(EXEC, exec);
}
CUresult cuGraphDestroy(CUgraph graph) {
  BEGIN(1);
  if (!inside(GRAPH, graph, sizeof *graph)) return INVALID_HANDLE;
  free(graph->queue.ops);
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
/* Waits for nothing: only synchronising the stream is sure to run it. */
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
