/* A stand-in for the CUDA driver: the calls that the runtime makes, on host memory, with the three kernels of
 * the test's recurrence as entry points. It checks what the real driver would: that contexts are current, that
 * modules come with room for a log, that memory is freed once, and that no copy or launch leaves it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_PTX = 218, NOT_FOUND = 500, NO_CONTEXT = 201 };

static _Thread_local void *current;
static int context;
static struct { char *begin; size_t bytes; } blocks[256];

static int inside(uint64_t address, size_t bytes) {
    for (int i = 0; i < 256; i++) {
        char *begin = blocks[i].begin;
        if (begin && (char *)address >= begin && (char *)address + bytes <= begin + blocks[i].bytes) return 1;
    }
    return 0;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 11080; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? NO_DEVICE : SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 9 : 0; /* compute capability 9.0, no memory pools */
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 1 << 20; return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **out, int device) { (void)device; *out = &context; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
int cuCtxSetCurrent(void *wanted) { current = wanted; return SUCCESS; }
int cuCtxGetCurrent(void **out) { *out = current; return SUCCESS; }
int cuGetErrorName(int error, const char **out) { (void)error; *out = "CUDA_ERROR_STAND_IN"; return SUCCESS; }
int cuGetErrorString(int error, const char **out) {
    static _Thread_local char text[32];
    snprintf(text, sizeof text, "error %d", error);
    *out = text;
    return SUCCESS;
}

/* Events do nothing: one stream runs everything in order, at once. */
int cuEventCreate(void **event, unsigned flags) { (void)flags; *event = &context; return SUCCESS; }
int cuEventDestroy_v2(void *event) { (void)event; return SUCCESS; }
int cuEventRecord(void *event, void *stream) { (void)event; (void)stream; return SUCCESS; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)stream; (void)event; (void)flags;
    return SUCCESS;
}
int cuStreamSynchronize(void *stream) { (void)stream; return current ? SUCCESS : NO_CONTEXT; }

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!current) return NO_CONTEXT;
    for (int i = 0; i < 256; i++) {
        if (blocks[i].begin || !bytes) continue;
        blocks[i].begin = aligned_alloc(256, (bytes + 255) / 256 * 256);
        blocks[i].bytes = bytes;
        memset(blocks[i].begin, 0xff, bytes);
        *address = (uint64_t)blocks[i].begin;
        return SUCCESS;
    }
    return INVALID_VALUE;
}
int cuMemFree_v2(uint64_t address) {
    for (int i = 0; i < 256; i++) {
        if (!blocks[i].begin || (uint64_t)blocks[i].begin != address) continue;
        free(blocks[i].begin);
        blocks[i].begin = NULL;
        return SUCCESS;
    }
    fprintf(stderr, "stand-in driver: freed what is not allocated\n");
    abort();
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    if (!inside(address, bytes)) return INVALID_VALUE;
    memset((void *)address, value, bytes);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    if (!inside(to, bytes)) return INVALID_VALUE;
    memcpy((void *)to, from, bytes);
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)stream;
    if (!inside(from, bytes)) return INVALID_VALUE;
    memcpy(to, (void *)from, bytes);
    return SUCCESS;
}

typedef int Entry(int64_t item, void **arguments);
#define BUFFER(i) (*(float **)arguments[i])
#define INTEGER(i) (*(int64_t *)arguments[i])

static int init(int64_t item, void **arguments) {
    if (item >= INTEGER(1)) return SUCCESS;
    if (!inside((uint64_t)(BUFFER(0) + item), 4)) return INVALID_VALUE;
    BUFFER(0)[item] = 0;
    return SUCCESS;
}
static int step(int64_t item, void **arguments) {
    int64_t width = INTEGER(5), t = INTEGER(6), at = t * width + item;
    if (item >= width) return SUCCESS;
    float *x = BUFFER(0), *w = BUFFER(1), *h = BUFFER(2), *next = BUFFER(3), *history = BUFFER(4);
    if (!inside((uint64_t)(x + at), 4) || !inside((uint64_t)(w + item), 4) || !inside((uint64_t)(h + item), 4)
        || !inside((uint64_t)(next + item), 4) || !inside((uint64_t)(history + at), 4)) return INVALID_VALUE;
    float product = w[item] * h[item];
    next[item] = history[at] = product + x[at];
    return SUCCESS;
}
static int finish(int64_t item, void **arguments) {
    if (item >= INTEGER(2)) return SUCCESS;
    if (!inside((uint64_t)(BUFFER(0) + item), 4) || !inside((uint64_t)(BUFFER(1) + item), 4)) return INVALID_VALUE;
    BUFFER(1)[item] = BUFFER(0)[item];
    return SUCCESS;
}

int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    if (!current) return NO_CONTEXT;
    if (strncmp(image, ".version", 8) != 0) {
        for (unsigned i = 0; i + 1 < count; i++) /* 5: the log's buffer, 6: its size */
            if (options[i] == 5 && options[i + 1] == 6)
                snprintf(values[i], (size_t)values[i + 1], "stand-in: expected .version\n");
        return INVALID_PTX;
    }
    *module = &context;
    return SUCCESS;
}
int cuModuleUnload(void *module) { (void)module; return SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    Entry *entry = !strcmp(name, "init") ? init : !strcmp(name, "step") ? step : !strcmp(name, "finish") ? finish : NULL;
    *function = (void *)entry;
    return entry ? SUCCESS : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    (void)stream;
    if (!current) return NO_CONTEXT;
    if (!gx || gy != 1 || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1 || shared || extra) return INVALID_VALUE;
    for (int64_t item = 0; item < (int64_t)gx * bx; item++) {
        int status = ((Entry *)function)(item, arguments);
        if (status) return status;
    }
    return SUCCESS;
}
