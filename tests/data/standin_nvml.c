/* A stand-in for libnvidia-ml.so.1, for tests on machines without a GPU: an H100 under load, as
 * nvidia-smi shows one. The real package nvidia-ml-py calls it, so that names, types and layouts
 * are those of the package. Functions that are not here are "not found", as in an older driver.
 * STANDIN_REASONS holds the bits of the reasons for lower clocks; STANDIN_TEGRA makes it answer as
 * on a Jetson: it starts, and supports nothing but the name.
 * Compile: cc -shared -fPIC -o libnvidia-ml.so.1 standin_nvml.c */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID, UNSUPPORTED, NO_PERMISSION, NOT_FOUND = 6, TOO_SMALL };
typedef void *Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned long long reference, violation; } Violation;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu, compute; } Process;
static int started;

static int answer(unsigned *to, unsigned value) {
    if (!started) return UNINITIALIZED;
    if (getenv("STANDIN_TEGRA")) return UNSUPPORTED;
    *to = value;
    return OK;
}
int nvmlInitWithFlags(unsigned flags) { (void)flags; started++; return OK; }
int nvmlShutdown(void) { return started-- > 0 ? OK : UNINITIALIZED; }
const char *nvmlErrorString(int status) {
    return status == NOT_FOUND ? "Not Found" : status == UNSUPPORTED ? "Not Supported" : "Error";
}
int nvmlSystemGetDriverVersion(char *to, unsigned size) { snprintf(to, size, "580.65.06"); return OK; }
int nvmlSystemGetCudaDriverVersion(int *to) { *to = 13000; return OK; }
int nvmlDeviceGetCount_v2(unsigned *to) { *to = 1; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *to) {
    *to = &started;
    return index == 0 ? OK : NOT_FOUND;
}
int nvmlDeviceGetName(Device d, char *to, unsigned size) {
    (void)d;
    snprintf(to, size, getenv("STANDIN_TEGRA") ? "Orin (nvgpu)" : "NVIDIA H100 80GB HBM3");
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Device d, int *major, int *minor) {
    (void)d;
    *minor = 0;
    return answer((unsigned *)major, 9);
}
int nvmlDeviceGetClockInfo(Device d, int type, unsigned *to) {
    (void)d;
    return answer(to, type == 1 ? 1755 : 2619);
}
int nvmlDeviceGetMaxClockInfo(Device d, int type, unsigned *to) {
    (void)d;
    return answer(to, type == 1 ? 1980 : 2619);
}
int nvmlDeviceGetTemperature(Device d, int sensor, unsigned *to) {
    (void)d, (void)sensor;
    return answer(to, 61);
}
int nvmlDeviceGetTemperatureThreshold(Device d, int which, unsigned *to) {
    (void)d;
    return answer(to, which == 1 ? 89 : 92);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device d, unsigned long long *to) {
    unsigned bits = 0;
    const char *text = getenv("STANDIN_REASONS");
    int status = answer(&bits, text ? (unsigned)strtoul(text, NULL, 0) : 4);
    (void)d;
    *to = bits;
    return status;
}
int nvmlDeviceGetPowerUsage(Device d, unsigned *to) { (void)d; return answer(to, 412345); }
int nvmlDeviceGetEnforcedPowerLimit(Device d, unsigned *to) { (void)d; return answer(to, 700000); }
int nvmlDeviceGetTotalEnergyConsumption(Device d, unsigned long long *to) {
    struct timespec now;
    unsigned dummy;
    (void)d;
    clock_gettime(CLOCK_MONOTONIC, &now); /* 400 W since the machine was started */
    *to = now.tv_sec * 400000ULL + now.tv_nsec / 2500;
    return answer(&dummy, 0);
}
int nvmlDeviceGetMemoryInfo(Device d, Memory *to) {
    unsigned dummy;
    (void)d;
    *to = (Memory){85520809984ULL, 83000000000ULL, 2520809984ULL};
    return answer(&dummy, 0);
}
int nvmlDeviceGetPersistenceMode(Device d, int *to) { (void)d; return answer((unsigned *)to, 1); }
int nvmlDeviceGetViolationStatus(Device d, int policy, Violation *to) {
    unsigned dummy;
    (void)d;
    *to = (Violation){1, policy == 1 ? 1500000000ULL : 20000000ULL};
    return answer(&dummy, 0);
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned *count, Process *to) {
    unsigned room = *count, dummy;
    (void)d;
    *count = 2;
    if (room < 2) return TOO_SMALL;
    memset(to, 0, 2 * sizeof *to);
    to[0].pid = (unsigned)getpid();
    to[1].pid = 1;
    return answer(&dummy, 0);
}
