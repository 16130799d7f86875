/* The stand-in's memory, streams, events and graphs. One lock for all: order matters here, speed does not. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mock.h"

#define EXPORT __attribute__((visibility("default")))
#define PAGE ((size_t)4096)

enum { INVALID_CONTEXT = 201, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { KERNEL, TO_DEVICE, TO_HOST, ON_DEVICE, SET, RECORD, WAIT };

typedef struct Allocation {
    struct Allocation *next;
    char *base;
    size_t bytes, mapped;
    bool device;
} Allocation;

typedef struct {
    int kind;
    const MockKernel *kernel;
    Launch launch;
    char *to, *from;
    size_t bytes;
    char *copy; /* of pageable memory, made when the call was */
    unsigned char value;
    struct CUevent_st *event;
    uint64_t ticket;
} Op;

typedef struct {
    Op *at;
    size_t count;
} Ops;

struct CUstream_st {
    Ops ops;
    bool live, capturing, invalid;
    struct CUgraph_st *graph;
};
struct CUevent_st {
    bool live, timed;
    CUstream stream;
    uint64_t asked, seen; /* tickets: of the last record, of the last one that was reached */
};
struct CUgraph_st {
    Ops ops;
    bool live;
};
struct CUgraphExec_st {
    Ops ops;
    bool live;
};
struct CUmod_st {
    char entry[128], sizes[PARAMS_MOST + 1];
    bool live, real;
    MockKernel kernel; /* of a real cubin */
};
struct CUfunc_st {
    const MockKernel *kernel;
    int dynamic; /* shared bytes that it opted in to */
};
struct CUctx_st {
    int retained;
};

static struct {
    char log[1 << 20], broken[1 << 14];
    size_t log_used, broken_used;
    Allocation *allocations;
    void *objects[1 << 14];
    size_t object_count, live;
    uint64_t ticket;
    size_t device_bytes;
    const char *fail_name;
    char fail_buffer[64];
    int fail_after, fail_code;
} m;
typedef struct {
    int driver, major, minor, devices, shared, threads, ordinal;
    int64_t memory;
} Facts;
#define USUAL {13000, 9, 0, 1, 232448, 1024, 0, (int64_t)1 << 30}
static const Facts usual = USUAL;
static Facts facts = USUAL;
static jmp_buf escape; /* of the kernel that runs */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct CUctx_st context;
static struct CUstream_st default_stream = {{NULL, 0}, true, false, false, NULL};
static struct CUstream_st *streams[256];
static size_t stream_count;
static __thread CUcontext stack[16];
static __thread int depth;
static __thread CUstream capturing; /* by this thread */

/* -- what tests ask ----------------------------------------------------------------------------------------------- */

void mock_broken(const char *format, ...) {
    va_list list;
    va_start(list, format);
    if (m.broken_used + 300 < sizeof m.broken) {
        m.broken_used += (size_t)vsnprintf(m.broken + m.broken_used, 250, format, list);
        m.broken_used += (size_t)snprintf(m.broken + m.broken_used, 4, "\n");
    }
    va_end(list);
}

static void note(const char *format, ...) {
    va_list list;
    va_start(list, format);
    if (m.log_used + 300 < sizeof m.log) {
        m.log_used += (size_t)vsnprintf(m.log + m.log_used, 250, format, list);
        m.log_used += (size_t)snprintf(m.log + m.log_used, 4, "\n");
    }
    va_end(list);
}

EXPORT const char *mock_log(void) { return m.log; }
EXPORT const char *mock_rules(void) { return m.broken; }
EXPORT void mock_clear_log(void) { m.log[m.log_used = 0] = 0; }
/* Things that are still alive: allocations, streams, events, graphs, modules, the context. */
EXPORT int64_t mock_live(void) {
    size_t count = m.live + (size_t)context.retained;
    for (const Allocation *a = m.allocations; a != NULL; a = a->next) count++;
    return (int64_t)count;
}
EXPORT int64_t mock_device_bytes(void) { return (int64_t)m.device_bytes; }

EXPORT void mock_reset(void) {
    while (m.allocations != NULL) {
        Allocation *next = m.allocations->next;
        munmap(m.allocations->base, m.allocations->mapped);
        free(m.allocations);
        m.allocations = next;
    }
    for (size_t i = 0; i < m.object_count; i++) free(m.objects[i]);
    memset(&m, 0, sizeof m);
    memset(&context, 0, sizeof context);
    default_stream.ops.count = stream_count = 0;
    depth = 0;
    capturing = NULL;
    facts = usual;
}

EXPORT void mock_set(const char *name, int64_t value) {
    if (strcmp(name, "driver") == 0) facts.driver = (int)value;
    else if (strcmp(name, "major") == 0) facts.major = (int)value;
    else if (strcmp(name, "minor") == 0) facts.minor = (int)value;
    else if (strcmp(name, "devices") == 0) facts.devices = (int)value;
    else if (strcmp(name, "shared") == 0) facts.shared = (int)value;
    else if (strcmp(name, "ordinal") == 0) facts.ordinal = (int)value;
    else if (strcmp(name, "memory") == 0) facts.memory = value;
    else mock_broken("there is no setting %s", name);
}

/* The `after`-th call of `name` from now on (0: the next) returns `code`. */
EXPORT void mock_fail(const char *name, int after, int code) {
    snprintf(m.fail_buffer, sizeof m.fail_buffer, "%s", name);
    m.fail_name = m.fail_buffer;
    m.fail_after = after;
    m.fail_code = code;
}
EXPORT int mock_failed(void) { return m.fail_name == NULL; }

static int failing(const char *name) {
    if (m.fail_name == NULL || strcmp(name, m.fail_name) != 0 || m.fail_after-- > 0) return 0;
    m.fail_name = NULL;
    return m.fail_code;
}

/* -- memory ------------------------------------------------------------------------------------------------------- */

static Allocation *find(const void *address, size_t bytes) {
    const char *at = address;
    for (Allocation *a = m.allocations; a != NULL; a = a->next)
        if (at >= a->base && at <= a->base + a->bytes && bytes <= (size_t)(a->base + a->bytes - at)) return a;
    return NULL;
}

static bool in_device(const void *address, size_t bytes) {
    const Allocation *a = find(address, bytes);
    return a != NULL && a->device;
}

void *mock_at(const Launch *l, int param, size_t bytes) {
    void *at = (void *)(uintptr_t)l->param[param];
    if (find(at, bytes) != NULL && (uintptr_t)at % (bytes % 8 == 0 && bytes <= 8 ? 8 : 4) == 0) return at;
    mock_broken("a kernel's parameter %d has no %zu aligned bytes at %p", param, bytes, at);
    longjmp(escape, 1);
}

/* Device memory is there only while the device works. */
static void unlock_memory(bool open) {
    for (Allocation *a = m.allocations; a != NULL; a = a->next)
        if (a->device) mprotect(a->base, a->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static CUresult allocate(void **memory, size_t bytes, bool device) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (device && (int64_t)(m.device_bytes + bytes) > facts.memory) return CUDA_ERROR_OUT_OF_MEMORY;
    Allocation *a = calloc(1, sizeof *a);
    a->bytes = bytes;
    a->mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    a->device = device;
    a->base = mmap(NULL, a->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->base == MAP_FAILED) {
        free(a);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (bytes < (size_t)1 << 24) memset(a->base, 0xCD, a->bytes); /* nothing may count on zeros */
    if (device) {
        mprotect(a->base, a->mapped, PROT_NONE);
        m.device_bytes += bytes;
    }
    a->next = m.allocations;
    m.allocations = a;
    *memory = a->base;
    note("%s %zu", device ? "alloc" : "pin", bytes);
    return CUDA_SUCCESS;
}

static void run_all(void);

static CUresult release(void *memory, bool device) {
    run_all(); /* the driver waits for work that may use it */
    for (Allocation **at = &m.allocations; *at != NULL; at = &(*at)->next) {
        Allocation *a = *at;
        if (a->base != memory || a->device != device) continue;
        *at = a->next;
        if (device) m.device_bytes -= a->bytes;
        munmap(a->base, a->mapped);
        free(a);
        note("%s", device ? "free" : "unpin");
        return CUDA_SUCCESS;
    }
    mock_broken("memory is freed that was never allocated: %p", memory);
    return CUDA_ERROR_INVALID_VALUE;
}

/* -- work --------------------------------------------------------------------------------------------------------- */

static void *object(size_t bytes) {
    void *made = calloc(1, bytes);
    if (m.object_count < sizeof m.objects / sizeof *m.objects) m.objects[m.object_count++] = made;
    m.live++;
    return made;
}

static CUstream stream_of(CUstream s) { return s == NULL || s == (CUstream)1 ? &default_stream : s; }

static void append(Ops *ops, const Op *op) {
    ops->at = realloc(ops->at, (ops->count + 1) * sizeof *ops->at);
    ops->at[ops->count++] = *op;
}

static CUresult enqueue(CUstream given, const Op *op) {
    CUstream s = stream_of(given);
    if (!s->live) {
        mock_broken("work for a stream that is gone");
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (s->capturing) {
        if (op->kind == TO_DEVICE || op->kind == TO_HOST || op->kind == RECORD || op->kind == WAIT)
            mock_broken("a graph gets work of kind %d, which names memory of the host or an event", op->kind);
        append(&s->graph->ops, op);
    } else {
        append(&s->ops, op);
    }
    return CUDA_SUCCESS;
}

static void run_stream(CUstream s);

static void execute(Op *op) {
    const char *words[] = {"launch", "h2d", "d2h", "d2d", "set"};
    if (op->kind == RECORD) op->event->seen = op->ticket;
    else if (op->kind == WAIT && op->event->seen < op->event->asked) run_stream(op->event->stream);
    if (op->kind >= RECORD) return;
    if (op->kind == KERNEL) note("launch %s grid=%u block=%u shared=%u", op->kernel->name, op->launch.grid, op->launch.block, op->launch.shared);
    else note("%s %zu", words[op->kind], op->bytes);
    bool to = op->kind == TO_HOST || op->kind == KERNEL || in_device(op->to, op->bytes);
    bool from = op->kind == TO_DEVICE || op->kind == SET || op->kind == KERNEL || in_device(op->from, op->bytes);
    if (!to || !from) {
        mock_broken("%s of %zu bytes when its memory is gone", words[op->kind], op->bytes);
        return;
    }
    unlock_memory(true);
    if (op->kind == KERNEL) {
        if (setjmp(escape) == 0) op->kernel->run(&op->launch);
    } else if (op->kind == SET) memset(op->to, op->value, op->bytes);
    else memmove(op->to, op->copy != NULL ? op->copy : op->from, op->bytes);
    unlock_memory(false);
    free(op->copy);
}

static void run_stream(CUstream s) {
    Ops ops = s->ops;
    s->ops = (Ops){NULL, 0};
    for (size_t i = 0; i < ops.count; i++) execute(&ops.at[i]);
    free(ops.at);
}

static void run_all(void) {
    run_stream(&default_stream);
    for (size_t i = 0; i < stream_count; i++) run_stream(streams[i]);
}

/* -- the driver's functions --------------------------------------------------------------------------------------- */

#define BEGIN(name)                              \
    pthread_mutex_lock(&lock);                   \
    CUresult result = failing(#name);            \
    if (result != CUDA_SUCCESS) goto leave;
#define END                          \
    leave:                           \
    pthread_mutex_unlock(&lock);     \
    return result;
#define FAIL(code)         \
    do {                   \
        result = (code);   \
        goto leave;        \
    } while (0)
/* Needs the context, and may not be called while this thread captures. */
#define CURRENT(name)                                                          \
    if (depth == 0 || stack[depth - 1] != &context || context.retained == 0) { \
        mock_broken(#name " without a current context");                       \
        FAIL(INVALID_CONTEXT);                                                 \
    }
#define NOT_CAPTURING(name)                                  \
    if (capturing != NULL) {                                 \
        mock_broken(#name " while a graph is captured");     \
        capturing->invalid = true;                           \
        FAIL(CAPTURE_UNSUPPORTED);                           \
    }

EXPORT CUresult cuInit(unsigned flags) {
    BEGIN(cuInit)
    if (facts.devices == 0) FAIL(CUDA_ERROR_NO_DEVICE);
    result = flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    END
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    BEGIN(cuDriverGetVersion)
    *version = facts.driver;
    END
}

EXPORT CUresult cuGetErrorName(CUresult code, const char **text) {
    *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 1 ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR_MOCK";
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = code == 2 ? "out of memory" : "the mock was told to";
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    BEGIN(cuDeviceGetCount)
    *count = facts.devices;
    END
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    BEGIN(cuDeviceGet)
    if (ordinal < 0 || ordinal >= facts.devices) FAIL(101);
    *device = ordinal;
    END
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    BEGIN(cuDeviceGetName)
    snprintf(name, (size_t)length, "Mock GPU %d", device);
    END
}

EXPORT CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    BEGIN(cuDeviceGetUuid_v2)
    memset(uuid, 0x40 + device, sizeof *uuid);
    END
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    BEGIN(cuDeviceGetAttribute)
    (void)device;
    switch (attribute) {
    case 1: *value = facts.threads; break;
    case 16: *value = 132; break;
    case 19: case 41: *value = 1; break;
    case 38: *value = 1 << 14; break; /* bytes of L2 */
    case 75: *value = facts.major; break;
    case 76: *value = facts.minor; break;
    case 97: *value = facts.shared; break;
    default: mock_broken("device attribute %d", attribute); result = CUDA_ERROR_INVALID_VALUE;
    }
    END
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    BEGIN(cuDeviceTotalMem_v2)
    (void)device;
    *bytes = (size_t)facts.memory;
    END
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *made, CUdevice device) {
    BEGIN(cuDevicePrimaryCtxRetain)
    (void)device;
    context.retained++;
    *made = &context;
    END
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    BEGIN(cuDevicePrimaryCtxRelease_v2)
    (void)device;
    if (context.retained-- <= 0) mock_broken("the context is released too often");
    END
}

EXPORT CUresult cuCtxPushCurrent_v2(CUcontext given) {
    BEGIN(cuCtxPushCurrent_v2)
    if (depth == 16) FAIL(CUDA_ERROR_INVALID_VALUE);
    stack[depth++] = given;
    END
}

EXPORT CUresult cuCtxPopCurrent_v2(CUcontext *old) {
    BEGIN(cuCtxPopCurrent_v2)
    if (depth == 0) {
        mock_broken("no context to pop");
        FAIL(INVALID_CONTEXT);
    }
    *old = stack[--depth];
    END
}
EXPORT int mock_depth(void) { return depth; }

EXPORT CUresult cuCtxSynchronize(void) {
    BEGIN(cuCtxSynchronize)
    CURRENT(cuCtxSynchronize)
    NOT_CAPTURING(cuCtxSynchronize)
    run_all();
    END
}

EXPORT CUresult cuMemGetInfo_v2(size_t *left, size_t *total) {
    BEGIN(cuMemGetInfo_v2)
    CURRENT(cuMemGetInfo)
    *total = (size_t)facts.memory;
    *left = *total - m.device_bytes;
    END
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    void *made = NULL;
    BEGIN(cuMemAlloc_v2)
    CURRENT(cuMemAlloc)
    NOT_CAPTURING(cuMemAlloc)
    result = allocate(&made, bytes, true);
    *memory = (CUdeviceptr)(uintptr_t)made;
    END
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr memory) {
    BEGIN(cuMemFree_v2)
    CURRENT(cuMemFree)
    NOT_CAPTURING(cuMemFree)
    result = release((void *)(uintptr_t)memory, true);
    END
}

EXPORT CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    BEGIN(cuMemHostAlloc)
    (void)flags;
    CURRENT(cuMemHostAlloc)
    NOT_CAPTURING(cuMemHostAlloc)
    result = allocate(memory, bytes, false);
    END
}

EXPORT CUresult cuMemFreeHost(void *memory) {
    BEGIN(cuMemFreeHost)
    CURRENT(cuMemFreeHost)
    NOT_CAPTURING(cuMemFreeHost)
    result = release(memory, false);
    END
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device, void *host, unsigned flags) {
    BEGIN(cuMemHostGetDevicePointer_v2)
    (void)flags;
    if (find(host, 1) == NULL) FAIL(CUDA_ERROR_INVALID_VALUE);
    *device = (CUdeviceptr)(uintptr_t)host;
    END
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream s) {
    BEGIN(cuMemcpyHtoDAsync_v2)
    CURRENT(cuMemcpyHtoDAsync)
    Op op = {.kind = TO_DEVICE, .to = (char *)(uintptr_t)to, .from = (char *)(uintptr_t)from, .bytes = bytes};
    if (!in_device(op.to, bytes)) mock_broken("h2d of %zu bytes reaches past its memory", bytes);
    if (in_device(from, 1)) mock_broken("h2d from device memory");
    if (find(from, 1) != NULL && find(from, bytes) == NULL) mock_broken("h2d of %zu bytes reads past its memory", bytes);
    if (find(from, 1) == NULL) op.copy = memcpy(malloc(bytes), from, bytes); /* pageable: read before the call returns */
    result = enqueue(s, &op);
    END
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream s) {
    BEGIN(cuMemcpyDtoHAsync_v2)
    CURRENT(cuMemcpyDtoHAsync)
    Op op = {.kind = TO_HOST, .to = to, .from = (char *)(uintptr_t)from, .bytes = bytes};
    if (!in_device(op.from, bytes)) mock_broken("d2h of %zu bytes reaches past its memory", bytes);
    if (in_device(to, 1)) mock_broken("d2h to device memory");
    if (find(to, 1) != NULL && find(to, bytes) == NULL) mock_broken("d2h of %zu bytes writes past its memory", bytes);
    result = enqueue(s, &op);
    if (find(to, 1) == NULL) run_stream(stream_of(s)); /* pageable: written before the call returns */
    END
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s) {
    BEGIN(cuMemcpyDtoDAsync_v2)
    CURRENT(cuMemcpyDtoDAsync)
    Op op = {.kind = ON_DEVICE, .to = (char *)(uintptr_t)to, .from = (char *)(uintptr_t)from, .bytes = bytes};
    if (!in_device(op.to, bytes) || !in_device(op.from, bytes)) mock_broken("d2d of %zu bytes reaches past its memory", bytes);
    result = enqueue(s, &op);
    END
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream s) {
    BEGIN(cuMemsetD8Async)
    CURRENT(cuMemsetD8Async)
    Op op = {.kind = SET, .to = (char *)(uintptr_t)to, .bytes = bytes, .value = value};
    if (!in_device(op.to, bytes)) mock_broken("set of %zu bytes reaches past its memory", bytes);
    result = enqueue(s, &op);
    END
}

EXPORT CUresult cuPointerGetAttributes(unsigned count, int *attributes, void **data, CUdeviceptr pointer) {
    BEGIN(cuPointerGetAttributes)
    const Allocation *a = find((void *)(uintptr_t)pointer, 0);
    for (unsigned i = 0; i < count; i++) {
        int value = attributes[i] == 2 ? (a == NULL ? 0 : a->device ? 2 : 1) : attributes[i] == 9 ? (a == NULL ? -2 : facts.ordinal) : 0;
        memcpy(data[i], &value, sizeof value);
    }
    END
}

/* -- what computes real kernels ----------------------------------------------------------------------------------- */

typedef struct {
    char *name;
    void (*run)(const Launch *launch);
} Registered;

static Registered *registered;
static size_t registered_count;

void mock_register(const char *name, void (*run)(const Launch *launch)) {
    registered = realloc(registered, (registered_count + 1) * sizeof *registered);
    registered[registered_count++] = (Registered){strdup(name), run};
}

size_t mock_extent(const void *address) {
    const Allocation *a = find(address, 1); /* one that ends here is not meant */
    return a != NULL ? (size_t)((const char *)a->base + a->bytes - (const char *)address) : 0;
}

/* An image is a real cubin, or what tests make: "PTX " and a name, or an ELF file whose name follows its one section. */
EXPORT CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned options, int *names, void **values) {
    BEGIN(cuModuleLoadDataEx)
    CURRENT(cuModuleLoadDataEx)
    NOT_CAPTURING(cuModuleLoadDataEx)
    bool elf = memcmp(image, "\x7f" "ELF", 4) == 0;
    if (!elf && memcmp(image, "PTX ", 4) != 0) {
        if (options == 2 && names[0] == 5) snprintf(values[0], (size_t)(uintptr_t)values[1], "line 1: this is no code");
        FAIL(elf ? CUDA_ERROR_INVALID_IMAGE : CUDA_ERROR_INVALID_PTX);
    }
    *module = object(sizeof **module);
    (*module)->live = true;
    (*module)->real = elf && mock_read_cubin(image, &(*module)->kernel, (*module)->entry, (*module)->sizes);
    if (!(*module)->real) snprintf((*module)->entry, sizeof (*module)->entry, "%s", (const char *)image + (elf ? 128 : 4));
    for (size_t i = 0; i < registered_count && (*module)->real; i++)
        if (strcmp(registered[i].name, (*module)->entry) == 0) (*module)->kernel.run = registered[i].run;
    note("%s %s", elf ? "load" : "jit", (*module)->entry);
    END
}

EXPORT CUresult cuModuleUnload(CUmodule module) {
    BEGIN(cuModuleUnload)
    CURRENT(cuModuleUnload)
    if (!module->live) mock_broken("a module is unloaded twice");
    module->live = false;
    m.live--;
    END
}

EXPORT CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    BEGIN(cuModuleGetFunction)
    CURRENT(cuModuleGetFunction)
    if (strcmp(name, module->entry) != 0) FAIL(NOT_FOUND);
    const MockKernel *k = mock_kernels;
    if (module->real) k = &module->kernel;
    while (!module->real && k->name != NULL && strcmp(k->name, name) != 0) k++;
    if (k->name == NULL) FAIL(NOT_FOUND);
    *function = object(sizeof **function);
    m.live--; /* of its module */
    (*function)->kernel = k;
    END
}

EXPORT CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction f) {
    BEGIN(cuFuncGetAttribute)
    if (attribute == 0) *value = f->kernel->threads;
    else if (attribute == 1) *value = f->kernel->shared;
    else FAIL(CUDA_ERROR_INVALID_VALUE);
    END
}

EXPORT CUresult cuFuncSetAttribute(CUfunction f, int attribute, int value) {
    BEGIN(cuFuncSetAttribute)
    if (attribute != 8 || value + f->kernel->shared > facts.shared) FAIL(CUDA_ERROR_INVALID_VALUE);
    f->dynamic = value;
    note("opt-in %s %d", f->kernel->name, value);
    END
}

EXPORT CUresult cuFuncGetParamInfo(CUfunction f, size_t index, size_t *offset, size_t *bytes) {
    BEGIN(cuFuncGetParamInfo)
    if (index >= strlen(f->kernel->sizes)) FAIL(CUDA_ERROR_INVALID_VALUE);
    *offset = 0;
    *bytes = f->kernel->sizes[index] == 'i' ? 4 : 8;
    END
}

EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                               CUstream s, void **params, void **extra) {
    BEGIN(cuLaunchKernel)
    CURRENT(cuLaunchKernel)
    Op op = {.kind = KERNEL, .kernel = f->kernel, .launch = {gx, bx, shared, {0}}};
    if (gx == 0 || gx > INT32_MAX || gy != 1 || gz != 1 || bx == 0 || by != 1 || bz != 1 || extra != NULL || (int)bx > f->kernel->threads) {
        mock_broken("kernel %s is launched on a grid of %u blocks of %u threads", f->kernel->name, gx, bx);
        FAIL(CUDA_ERROR_INVALID_VALUE);
    }
    if (shared > 49152 && (int)shared > f->dynamic) {
        mock_broken("kernel %s takes %u bytes of shared memory and did not opt in", f->kernel->name, shared);
        FAIL(CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t i = 0; f->kernel->sizes[i] != 0; i++) {
        memcpy(&op.launch.param[i], params[i], f->kernel->sizes[i] == 'i' ? 4 : 8);
        if (f->kernel->sizes[i] == 'p' && op.launch.param[i] != 0 && find((void *)(uintptr_t)op.launch.param[i], 0) == NULL)
            mock_broken("kernel %s: parameter %zu points to no live memory", f->kernel->name, i);
    }
    result = enqueue(s, &op);
    END
}

EXPORT CUresult cuStreamCreate(CUstream *s, unsigned flags) {
    BEGIN(cuStreamCreate)
    CURRENT(cuStreamCreate)
    if (flags != CU_STREAM_NON_BLOCKING || stream_count == 256) FAIL(CUDA_ERROR_INVALID_VALUE);
    *s = object(sizeof **s);
    (*s)->live = true;
    streams[stream_count++] = *s;
    END
}

EXPORT CUresult cuStreamDestroy_v2(CUstream s) {
    BEGIN(cuStreamDestroy_v2)
    run_stream(s);
    if (!s->live || s->capturing) mock_broken("a stream is destroyed twice, or while it captures");
    s->live = false;
    m.live--;
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i] == s) streams[i] = streams[--stream_count];
    END
}

EXPORT CUresult cuStreamSynchronize(CUstream s) {
    BEGIN(cuStreamSynchronize)
    CURRENT(cuStreamSynchronize)
    NOT_CAPTURING(cuStreamSynchronize)
    run_stream(stream_of(s));
    END
}

EXPORT CUresult cuStreamWaitEvent(CUstream s, CUevent event, unsigned flags) {
    BEGIN(cuStreamWaitEvent)
    (void)flags;
    Op op = {.kind = WAIT, .event = event};
    if (event->stream != NULL) result = enqueue(s, &op);
    END
}

EXPORT CUresult cuStreamIsCapturing(CUstream s, int *status) {
    BEGIN(cuStreamIsCapturing)
    *status = stream_of(s)->capturing;
    END
}

EXPORT CUresult cuStreamBeginCapture_v2(CUstream s, int mode) {
    BEGIN(cuStreamBeginCapture_v2)
    CURRENT(cuStreamBeginCapture)
    if (stream_of(s) == &default_stream || s->capturing || mode != 1 || capturing != NULL) FAIL(CAPTURE_UNSUPPORTED);
    s->capturing = true;
    s->invalid = false;
    s->graph = object(sizeof *s->graph);
    s->graph->live = true;
    capturing = s;
    note("capture");
    END
}

EXPORT CUresult cuStreamEndCapture(CUstream s, CUgraph *graph) {
    *graph = NULL;
    bool invalid = s->invalid;
    if (capturing != s) mock_broken("capture ends in another thread");
    capturing = NULL;
    s->capturing = false;
    BEGIN(cuStreamEndCapture)
    if (invalid) FAIL(CAPTURE_INVALIDATED);
    *graph = s->graph;
    note("captured %zu", s->graph->ops.count);
    leave:
    if (result != CUDA_SUCCESS) m.live--; /* the driver keeps no graph */
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    BEGIN(cuGraphInstantiateWithFlags)
    CURRENT(cuGraphInstantiate)
    (void)flags;
    *exec = object(sizeof **exec);
    (*exec)->live = true;
    for (size_t i = 0; i < graph->ops.count; i++) append(&(*exec)->ops, &graph->ops.at[i]);
    END
}

EXPORT CUresult cuGraphLaunch(CUgraphExec exec, CUstream s) {
    BEGIN(cuGraphLaunch)
    CURRENT(cuGraphLaunch)
    if (!exec->live) mock_broken("a graph that is gone is launched");
    note("replay %zu", exec->ops.count);
    for (size_t i = 0; i < exec->ops.count && result == CUDA_SUCCESS; i++) result = enqueue(s, &exec->ops.at[i]);
    END
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec exec) {
    BEGIN(cuGraphExecDestroy)
    if (!exec->live) mock_broken("a graph is destroyed twice");
    exec->live = false;
    free(exec->ops.at);
    m.live--;
    note("drop graph");
    END
}

EXPORT CUresult cuGraphDestroy(CUgraph graph) {
    BEGIN(cuGraphDestroy)
    if (!graph->live) mock_broken("a graph is destroyed twice");
    graph->live = false;
    free(graph->ops.at);
    m.live--;
    END
}

EXPORT CUresult cuEventCreate(CUevent *event, unsigned flags) {
    BEGIN(cuEventCreate)
    CURRENT(cuEventCreate)
    *event = object(sizeof **event);
    (*event)->live = true;
    (*event)->timed = flags == CU_EVENT_DEFAULT;
    END
}

EXPORT CUresult cuEventDestroy_v2(CUevent event) {
    BEGIN(cuEventDestroy_v2)
    if (!event->live) mock_broken("an event is destroyed twice");
    event->live = false;
    m.live--;
    END
}

EXPORT CUresult cuEventRecord(CUevent event, CUstream s) {
    BEGIN(cuEventRecord)
    CURRENT(cuEventRecord)
    event->stream = stream_of(s);
    event->asked = ++m.ticket;
    Op op = {.kind = RECORD, .event = event, .ticket = m.ticket};
    result = enqueue(s, &op);
    END
}

EXPORT CUresult cuEventQuery(CUevent event) {
    BEGIN(cuEventQuery)
    if (event->seen < event->asked) result = CUDA_ERROR_NOT_READY;
    END
}

EXPORT CUresult cuEventSynchronize(CUevent event) {
    BEGIN(cuEventSynchronize)
    NOT_CAPTURING(cuEventSynchronize)
    if (event->seen < event->asked) run_stream(event->stream);
    END
}

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    BEGIN(cuEventElapsedTime)
    if (!start->timed || !end->timed) FAIL(CUDA_ERROR_INVALID_VALUE);
    if (start->seen < start->asked || end->seen < end->asked) FAIL(CUDA_ERROR_NOT_READY);
    *milliseconds = (float)(end->seen - start->seen);
    END
}
