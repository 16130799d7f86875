/* tilewright.h: open a model.tw and run it. A single-file loader for C and C++ on Linux.
 *
 *     #define TILEWRIGHT_IMPLEMENTATION      // in exactly one C file (C11)
 *     #include "tilewright.h"
 *
 *     tw_model *model;
 *     tw_error error;
 *     if (tw_open(&model, "model.tw", NULL, &error) != TW_OK) return puts(error.text), error.code;
 *     tw_tensor x = {data, bytes, 1, 2, {8, 384}}, y = {0};
 *     tw_run(model, 0, &x, 1, &y, 1, &error);  …  tw_free(model, y.data);  tw_close(model);
 *
 * Link with libpthread and, on glibc before 2.34, libdl. Every function that can fail returns a TW_… code (also the
 * exit code of the command line) and fills a tw_error. An opened model may be run by many threads at a time.
 *
 * The file is long because it must be one: declarations first, then SHA-256, JSON, the container, code, opening.
 */
#ifndef TILEWRIGHT_H
#define TILEWRIGHT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef TW_API
#define TW_API /* how the functions at the end are declared */
#endif

#define TW_FORMAT_VERSION 1 /* of the artifact */
#define TW_ABI_VERSION 1    /* of everything below */
#define TW_MAX_RANK 16
#define TW_ALIGNMENT 64 /* of constants and temporaries, in bytes */

enum { TW_OK = 0, TW_INTERNAL = 1, TW_USAGE = 2, TW_RESOURCE = 7, TW_DEVICE = 8, TW_ARTIFACT = 9 };

typedef struct {
    int32_t code;
    char text[1020];
} tw_error;

/* A dense tensor in row-major order. `dtype` is the ONNX TensorProto.DataType number; types of less than 8 bits share bytes,
 * the first element in the lowest bits.
 *
 * As an output: `data` NULL asks for memory, to be given back with tw_free; else `bytes` is what `data` can hold.
 * A state (an output that aliases an input) given the input's own memory is updated in place.
 *
 * For a plan on a GPU, `data` may lie on the host or on that GPU: the driver knows which. */
typedef struct {
    void *data;
    int64_t bytes;
    int32_t dtype, rank;
    int64_t dim[TW_MAX_RANK]; /* -1: known only after the run (from tw_shapes) */
} tw_tensor;

typedef struct {
    const char *name;
    const char *shape; /* as text, "[N, 3, 224, 224]" */
    int32_t dtype, rank;
} tw_signature;

/* Seconds of each kernel launch of a run, in order; the caller gives room for `capacity`. */
typedef struct {
    uint32_t *kernel;
    double *seconds;
    uint32_t capacity, count; /* count may exceed capacity: what there was */
} tw_profile;

/* -- the plan executor: what the runtime library in an artifact exports, as one table, `tw_runtime_v1` ------------- */

typedef struct tw_plan tw_plan;
typedef struct tw_args tw_args; /* kernel_abi.h */
typedef void (*tw_kernel)(const tw_args *args, int64_t begin, int64_t end);

typedef struct {
    const char *name;
    uint64_t offset, bytes;
} tw_weight;

/* `tensor` is in ascending order of name (strcmp). `data` is aligned to TW_ALIGNMENT and outlives the plan. */
typedef struct {
    const void *data;
    uint64_t bytes;
    const tw_weight *tensor;
    uint32_t count;
} tw_weights;

/* A GPU as the driver tells of it. */
typedef struct {
    char name[256];
    unsigned char uuid[16];
    int32_t index, major, minor; /* compute capability */
    int32_t driver;              /* CUDA version that the driver supports: 1000 * major + 10 * minor */
    int32_t processors;          /* streaming multiprocessors */
    int32_t shared_bytes;        /* most dynamic shared memory of a block */
    int64_t total_bytes;         /* of memory */
    int64_t free_bytes;          /* -1 unless told by device_info: asking takes a context */
} tw_device;

enum {
    TW_ALLOW_JIT = 1, /* let the driver compile PTX where there is no machine code for the GPU */
    TW_NO_GRAPHS = 2, /* launch every kernel by itself, always */
};

/* Zero means the default everywhere but in `size`. */
typedef struct {
    uint32_t size;         /* sizeof(tw_device_options): later versions append */
    uint32_t flags;
    int32_t device;        /* index of the GPU */
    int32_t threads;       /* of kernels on the host */
    int32_t graphs;        /* most CUDA graphs that a run context keeps; default 16, at most 4096 */
    int32_t driver_needed; /* least CUDA version of the driver that the code is for: 1000 * major + 10 * minor */
    const char *library;   /* of the driver; default libcuda.so.1 */
    const void *modules;   /* the member modules.bin; read only by create_device */
    uint64_t module_bytes;
    const tw_kernel *host_kernels; /* outlive the plan */
    uint32_t host_kernel_count;
    uint32_t reserved;
} tw_device_options;

/* What a plan has on its GPU, and did there. */
typedef struct {
    uint32_t size; /* sizeof(tw_device_use), set by the caller */
    int32_t kernels, jit_kernels;
    int32_t graphs, contexts;      /* kept by the run contexts that are idle, and their number */
    int32_t reserved;
    int64_t weight_bytes;          /* of weights in device memory */
    int64_t context_bytes;         /* of device memory in the idle run contexts */
    double load_seconds;           /* create_device: modules and weights */
    double jit_seconds;            /* of that, the driver's compiler of PTX */
    uint64_t direct, captured, replayed; /* runs launched kernel by kernel, recorded as a graph, and replayed */
    tw_device device;
} tw_device_use;

enum {
    TW_RUN_ON_STREAM = 1,      /* use `stream`, NULL being CUDA's default stream; else the run has one of its own */
    TW_RUN_DEVICE_OUTPUTS = 2, /* outputs without memory get device memory, given back with release_device */
    TW_RUN_TIMED = 4,
    TW_RUN_DIRECT = 8,         /* no graph for this run */
};

typedef struct {
    uint32_t size; /* sizeof(tw_run_options): later versions append */
    uint32_t flags;
    void *stream;        /* a CUstream of the GPU's primary context */
    void *after;         /* a CUevent that the run waits for on the device, or NULL */
    tw_profile *profile; /* or NULL; such a run is direct, and `wait` fills in the device time of each launch */
} tw_run_options;

typedef struct tw_pending tw_pending; /* a run that may still go on */

enum { TW_CPU_EAX, TW_CPU_EBX, TW_CPU_ECX, TW_CPU_EDX, TW_CPU_XCR0, TW_CPU_HWCAP, TW_CPU_HWCAP2 };

typedef struct {
    uint32_t abi; /* TW_ABI_VERSION */
    uint32_t size; /* of this table; later versions only append */
    /* One feature bit: of a CPUID register, of XCR0, or of a word of the auxiliary vector. */
    int32_t (*cpu_has)(uint32_t kind, uint32_t leaf, uint32_t subleaf, uint32_t bit);
    /* Threads by default: processors of the affinity mask, at most the cgroup's quota. */
    int32_t (*threads_default)(void);
    /* Processors that the cgroups of this process allow (0: no limit); `root` comes before /proc and /sys. */
    double (*cpu_quota)(const char *root);
    /* The first 4096-byte segment whose CRC32C differs from the little-endian `table`, or -1. */
    int64_t (*check_crc)(const void *data, uint64_t bytes, const void *table, int32_t threads);
    int32_t (*create)(tw_plan **plan, const void *data, uint64_t bytes, const tw_weights *weights,
                      const tw_kernel *kernels, uint32_t kernel_count, int32_t threads, tw_error *error);
    void (*destroy)(tw_plan *plan);
    int32_t (*threads)(const tw_plan *plan);
    uint32_t (*entry_count)(const tw_plan *plan);
    const char *(*entry_name)(const tw_plan *plan, uint32_t entry);
    uint32_t (*kernel_count)(const tw_plan *plan);
    const char *(*kernel_name)(const tw_plan *plan, uint32_t kernel);
    uint32_t (*input_count)(const tw_plan *plan, uint32_t entry);
    uint32_t (*output_count)(const tw_plan *plan, uint32_t entry);
    const tw_signature *(*input)(const tw_plan *plan, uint32_t entry, uint32_t index);
    const tw_signature *(*output)(const tw_plan *plan, uint32_t entry, uint32_t index);
    /* Checks the inputs' types and shapes and fills the outputs' (`data` is not read). `arena` and `live`, unless NULL,
     * get the bytes of the temporaries' memory and the most that is live at a time. */
    int32_t (*shapes)(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                      uint32_t output_count, int64_t *arena, int64_t *live, tw_error *error);
    int32_t (*run)(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                   uint32_t output_count, tw_profile *profile, tw_error *error);
    void (*release)(void *data); /* memory that `run` allocated for an output on the host */
    /* -- of the second version: GPUs. Every function may be called by any thread ------------------------------------ */
    /* GPUs that the driver `library` (NULL: libcuda.so.1) shows this process, after CUDA_VISIBLE_DEVICES.
     * TW_DEVICE when there is no driver, it has no GPU, or it is older than this runtime can use. */
    int32_t (*device_count)(const char *library, int32_t *count, tw_error *error);
    int32_t (*device_describe)(const char *library, int32_t index, tw_device *device, tw_error *error);
    /* Whether machine code for `arch` (90 for sm_90) runs on a GPU of this compute capability. */
    int32_t (*device_runs)(int32_t arch, int32_t major, int32_t minor);
    /* A plan on a GPU: its modules and weights are there when this returns. TW_DEVICE: no driver, too old a driver, no such
     * GPU, no code for it; TW_RESOURCE: not enough device memory; TW_ARTIFACT: damaged plan or modules. */
    int32_t (*create_device)(tw_plan **plan, const void *data, uint64_t bytes, const tw_weights *weights,
                             const tw_device_options *options, tw_error *error);
    /* Fills `use` (its `size` set by the caller); TW_USAGE for a plan on the CPU. */
    int32_t (*device_info)(tw_plan *plan, tw_device_use *use, tw_error *error);
    /* As `run`, but returns when the work is in the stream; `options` may be NULL. The shapes and pointers of outputs are
     * there at once, what is in host memory after `wait`, what is in device memory in the order of the stream. Host memory
     * of inputs may be used again at once, except page-locked memory, which is read in the order of the stream. Plans with
     * steps on the host or run-time sizes wait for these before they return. A plan on the CPU is run to its end. */
    int32_t (*run_async)(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                         uint32_t output_count, const tw_run_options *options, tw_pending **pending, tw_error *error);
    /* 1 when the device is done, 0 when not; a negated TW_… code when it failed. Outputs on the host still need `wait`. */
    int32_t (*done)(tw_pending *pending, tw_error *error);
    /* Until the run is done and outputs on the host are written. TW_USAGE when a kernel met an index outside its tensor. */
    int32_t (*wait)(tw_pending *pending, tw_error *error);
    /* The CUevent at the end of the run (NULL on the CPU), for other streams to wait on; of the pending run. */
    void *(*pending_event)(tw_pending *pending);
    /* Seconds between the run's first and last work on the device, for TW_RUN_TIMED and after `wait`; else -1. */
    double (*pending_seconds)(tw_pending *pending);
    /* Gives up a pending run, before the plan is destroyed. One that was not waited for goes on; its outputs on the host
     * are never written. Outputs that it allocated are the caller's. NULL does nothing. */
    void (*pending_free)(tw_pending *pending);
    /* Device memory that a run allocated for an output; waits for work that uses it. NULL does nothing. */
    void (*release_device)(tw_plan *plan, void *data);
} tw_runtime;


/* -- an opened model ---------------------------------------------------------------------------------------------- */

typedef struct tw_model tw_model;

/* Zero means the default everywhere. */
typedef struct {
    int32_t threads;    /* of one run; default: the processors that this process may use */
    int32_t copy;       /* read the file instead of mapping it, when it may change while it is open */
    const char *target; /* run exactly this part ("cpu:x86-64-v3"); default: the best that this machine can */
    const char *device; /* "cpu", "cuda" (the first GPU that a part is for), "cuda:1" (the second GPU); default: as "cuda" where
                           there is such a GPU, else the processor */
    const char *driver; /* library of the NVIDIA driver; default: libcuda.so.1 */
    int32_t allow_jit;  /* let the NVIDIA driver compile what is there only as PTX */
} tw_options;

/* Opens an artifact and checks it. Running it executes its code, as with any program. */
TW_API int32_t tw_open(tw_model **model, const char *path, const tw_options *options, tw_error *error);
/* The same for bytes that stay as they are until tw_close; weights are used in place when `data` is 64-byte aligned. */
TW_API int32_t tw_open_memory(tw_model **model, const void *data, uint64_t bytes, const tw_options *options, tw_error *error);
/* Ends a model that no thread is running. */
TW_API void tw_close(tw_model *model);

TW_API const char *tw_target(const tw_model *model);
/* Index of an entry point by name, or -1; the first is 0. */
TW_API int32_t tw_entry(const tw_model *model, const char *name);
TW_API uint32_t tw_input_count(const tw_model *model, uint32_t entry);
TW_API uint32_t tw_output_count(const tw_model *model, uint32_t entry);
TW_API const tw_signature *tw_input(const tw_model *model, uint32_t entry, uint32_t index);
TW_API const tw_signature *tw_output(const tw_model *model, uint32_t entry, uint32_t index);
/* Shapes of the outputs for inputs of these shapes; -1 where only the run tells. Nothing is run. */
TW_API int32_t tw_shapes(tw_model *model, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                         uint32_t output_count, tw_error *error);
/* Runs an entry point. Inputs need type, rank, dimensions and data; see tw_tensor for outputs. */
TW_API int32_t tw_run(tw_model *model, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
               uint32_t output_count, tw_error *error);
/* Memory that tw_run gave to an output. */
TW_API void tw_free(tw_model *model, void *data);
/* The executor and its plan, for what only it has: runs that are not waited for, device memory, profiles. */
TW_API const tw_runtime *tw_executor(const tw_model *model, tw_plan **plan);

#ifdef __cplusplus
}
#endif
#endif /* TILEWRIGHT_H */

/* ================================================================================================================= */

#if defined(TILEWRIGHT_IMPLEMENTATION) && !defined(TILEWRIGHT_IMPLEMENTED)
#define TILEWRIGHT_IMPLEMENTED

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef O_CLOEXEC
#define O_CLOEXEC 02000000
#endif
/* Declared here because strict C11 hides them. */
extern long syscall(long number, ...);
extern int mkstemp(char *name);

static int32_t tw__fail(tw_error *error, int32_t code, const char *format, ...) {
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return code;
}

/* -- SHA-256 (FIPS 180-4) ----------------------------------------------------------------------------------------- */

static const uint32_t tw__k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t tw__rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void tw__sha_block(uint32_t state[8], const unsigned char *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (tw__rotate(a, 7) ^ tw__rotate(a, 18) ^ a >> 3) + (tw__rotate(b, 17) ^ tw__rotate(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t1 = v[7] + (tw__rotate(e, 6) ^ tw__rotate(e, 11) ^ tw__rotate(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + tw__k[i] + w[i];
        uint32_t t2 = (tw__rotate(a, 2) ^ tw__rotate(a, 13) ^ tw__rotate(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state[i] += v[i];
}

/* The digest in hexadecimal. */
static void tw__sha256(const unsigned char *data, uint64_t bytes, char text[65]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    unsigned char last[128] = {0};
    uint64_t whole = bytes / 64 * 64, rest = bytes - whole, size = rest < 56 ? 64 : 128;
    for (uint64_t i = 0; i < whole; i += 64) tw__sha_block(state, data + i);
    if (rest > 0) memcpy(last, data + whole, (size_t)rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++) last[size - 1 - (uint64_t)i] = (unsigned char)(bytes * 8 >> 8 * i);
    for (uint64_t i = 0; i < size; i += 64) tw__sha_block(state, last + i);
    for (int i = 0; i < 8; i++) snprintf(text + 8 * i, 9, "%08x", (unsigned)state[i]);
}

/* -- JSON: the subset that manifests use (no fractions), into nodes that name each other by index; 0 is none -------- */

typedef struct {
    char type; /* '{' '[' 's' string, 'i' integer, 'l' true, false or null */
    uint32_t child, next;
    const char *text;
    int64_t number;
} tw__node;

typedef struct {
    char *at, *end;
    tw__node *nodes;
    uint32_t count, capacity;
} tw__json;

static uint32_t tw__new_node(tw__json *j, char type) {
    if (j->count == j->capacity) {
        uint32_t capacity = j->capacity ? j->capacity * 2 : 256;
        tw__node *grown = capacity > j->capacity ? (tw__node *)realloc(j->nodes, capacity * sizeof *grown) : NULL;
        if (grown == NULL) return 0;
        j->nodes = grown;
        j->capacity = capacity;
    }
    if (j->count == 0) memset(&j->nodes[j->count++], 0, sizeof *j->nodes);
    memset(&j->nodes[j->count], 0, sizeof *j->nodes);
    j->nodes[j->count].type = type;
    return j->count++;
}

static void tw__skip_space(tw__json *j) {
    while (j->at < j->end && strchr(" \t\r\n", *j->at) != NULL && *j->at != 0) j->at++;
}

static int tw__take(tw__json *j, char c) {
    tw__skip_space(j);
    if (j->at == j->end || *j->at != c) return 0;
    j->at++;
    return 1;
}

static int tw__hex4(tw__json *j, uint32_t *value) {
    *value = 0;
    if (j->end - j->at < 4) return 0;
    for (int i = 0; i < 4; i++) {
        const char *digits = "0123456789abcdef", *found = strchr(digits, *j->at | 32);
        if ((unsigned char)*j->at < '0' || found == NULL || *found == 0) return 0;
        *value = *value << 4 | (uint32_t)(found - digits);
        j->at++;
    }
    return 1;
}

/* A \u escape as UTF-8; shorter than the escape, so it fits in place. */
static int tw__unicode(tw__json *j, char **out) {
    uint32_t c, low;
    if (!tw__hex4(j, &c)) return 0;
    if (c >= 0xD800 && c < 0xDC00) {
        if (j->end - j->at < 6 || j->at[0] != '\\' || j->at[1] != 'u') return 0;
        j->at += 2;
        if (!tw__hex4(j, &low) || low < 0xDC00 || low > 0xDFFF) return 0;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    } else if (c == 0 || (c >= 0xDC00 && c <= 0xDFFF)) {
        return 0;
    }
    int extra = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char lead[4] = {0, 0xC0, 0xE0, 0xF0};
    *(*out)++ = (char)(lead[extra] | c >> 6 * extra);
    while (extra-- > 0) *(*out)++ = (char)(0x80 | (c >> 6 * extra & 0x3F));
    return 1;
}

static uint32_t tw__string(tw__json *j) {
    char *out = j->at;
    uint32_t node = tw__new_node(j, 's');
    if (node == 0) return 0;
    j->nodes[node].text = out;
    while (j->at < j->end) {
        char c = *j->at++;
        if (c == '"') {
            *out = 0;
            return node;
        }
        if ((unsigned char)c < 32) return 0;
        if (c != '\\') {
            *out++ = c;
            continue;
        }
        if (j->at == j->end) return 0;
        const char *from = "\"\\/bfnrt", *to = "\"\\/\b\f\n\r\t", *found;
        c = *j->at++;
        if (c == 'u') {
            if (!tw__unicode(j, &out)) return 0;
        } else if (c != 0 && (found = strchr(from, c)) != NULL) {
            *out++ = to[found - from];
        } else {
            return 0;
        }
    }
    return 0;
}

static uint32_t tw__integer(tw__json *j) {
    uint32_t node = tw__new_node(j, 'i');
    int negative = *j->at == '-', digits = 0;
    uint64_t value = 0;
    for (j->at += negative; node != 0 && j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++, digits++) {
        uint64_t digit = (uint64_t)(*j->at - '0');
        if (value > ((uint64_t)INT64_MAX - digit) / 10) return 0;
        value = value * 10 + digit;
    }
    if (node == 0 || digits == 0 || (j->at < j->end && (*j->at == '.' || (*j->at | 32) == 'e'))) return 0;
    j->nodes[node].number = negative ? -(int64_t)value : (int64_t)value;
    return node;
}

static uint32_t tw__literal(tw__json *j) {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(j->end - j->at) < length || memcmp(j->at, words[i], length) != 0) continue;
        j->at += length;
        return tw__new_node(j, 'l');
    }
    return 0;
}

static uint32_t tw__value(tw__json *j, int depth) {
    tw__skip_space(j);
    if (j->at == j->end || depth > 32) return 0;
    char open = *j->at;
    if (open == '-' || (open >= '0' && open <= '9')) return tw__integer(j);
    if (open == '"') return j->at++, tw__string(j);
    if (open != '{' && open != '[') return tw__literal(j);
    j->at++;
    uint32_t node = tw__new_node(j, open), last = 0;
    char close = open == '{' ? '}' : ']';
    if (node == 0 || tw__take(j, close)) return node;
    do {
        uint32_t first = 0, item;
        if (open == '{' && (!tw__take(j, '"') || (first = tw__string(j)) == 0 || !tw__take(j, ':'))) return 0;
        if ((item = tw__value(j, depth + 1)) == 0) return 0;
        if (first != 0) j->nodes[first].next = item;
        else first = item;
        if (last == 0) j->nodes[node].child = first;
        else j->nodes[last].next = first;
        last = item;
    } while (tw__take(j, ','));
    return tw__take(j, close) ? node : 0;
}

/* The value of a key, or 0. */
static uint32_t tw__get(const tw__json *j, uint32_t object, const char *key) {
    if (j->nodes[object].type != '{') return 0;
    for (uint32_t i = j->nodes[object].child; i != 0; i = j->nodes[j->nodes[i].next].next)
        if (strcmp(j->nodes[i].text, key) == 0) return j->nodes[i].next;
    return 0;
}

static const char *tw__text(const tw__json *j, uint32_t node) { return j->nodes[node].type == 's' ? j->nodes[node].text : ""; }

/* A number that is not negative, or -1. */
static int64_t tw__number(const tw__json *j, uint32_t node) {
    return j->nodes[node].type == 'i' && j->nodes[node].number >= 0 ? j->nodes[node].number : -1;
}

/* -- the container: a stored zip in one canonical form, see runtime/format.py -------------------------------------- */

typedef struct {
    const unsigned char *data;
    uint64_t bytes;
} tw__span;

typedef struct {
    char name[256];
    tw__span span;
} tw__member;

struct tw_model {
    const unsigned char *data;
    uint64_t bytes;
    void *mapped, *owned, *weights_copy; /* the file, mapped or read; weights moved to an aligned address */
    int32_t weights_checked;             /* by whoever opened it */
    tw__member *members;
    uint32_t member_count;
    tw__json json;
    char *manifest;
    char target[128];
    void *libraries[2];
    int descriptors[2];
    const tw_runtime *runtime;
    tw_plan *plan;
};

static uint64_t tw__le(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

#define TW__DAMAGED(what) tw__fail(error, TW_ARTIFACT, "not a whole artifact: %s", what)

static int tw__plain_name(const char *name, uint64_t length) {
    if (length == 0 || length > 255) return 0;
    for (uint64_t i = 0; i < length; i++) {
        int letter = (name[i] >= '0' && name[i] <= '9') || ((name[i] | 32) >= 'a' && (name[i] | 32) <= 'z') || name[i] == '_';
        int first = i == 0 || name[i - 1] == '/';
        if (!letter && (first || (name[i] != '.' && name[i] != '-' && name[i] != '+' && name[i] != '/'))) return 0;
    }
    return name[length - 1] != '/';
}

/* One record of the directory at `*at`; its member must start where the one before it ended. */
static int32_t tw__read_member(tw_model *m, uint64_t *at, uint64_t end, uint64_t start, uint64_t *expected, tw_error *error) {
    const unsigned char *p = m->data + *at;
    if (end - *at < 46 || memcmp(p, "PK\1\2", 4) != 0) return TW__DAMAGED("its directory is damaged");
    uint64_t size = tw__le(p + 24, 4), name = tw__le(p + 28, 2), extra = tw__le(p + 30, 2), offset = tw__le(p + 42, 4);
    int large = size == 0xFFFFFFFF;
    if (end - *at - 46 < name + extra) return TW__DAMAGED("its directory is cut short");
    if (tw__le(p + 8, 4) != 0 || tw__le(p + 20, 4) != size || tw__le(p + 32, 2) != 0 || extra != (large ? 28u : 0u))
        return TW__DAMAGED("a member is compressed or not in canonical form");
    if (large) {
        const unsigned char *wide = p + 46 + name;
        if (tw__le(wide, 4) != 0x180001 || tw__le(wide + 4, 8) != tw__le(wide + 12, 8)) return TW__DAMAGED("a zip64 field is damaged");
        size = tw__le(wide + 4, 8);
        offset = tw__le(wide + 20, 8);
    }
    if (!tw__plain_name((const char *)p + 46, name)) return TW__DAMAGED("a member has an unusable name");
    if (offset != *expected || offset > start || start - offset < 30) return TW__DAMAGED("its members overlap or leave gaps");
    const unsigned char *local = m->data + offset;
    uint64_t data = offset + 30 + tw__le(local + 26, 2) + tw__le(local + 28, 2);
    if (memcmp(local, "PK\3\4", 4) != 0 || tw__le(local + 6, 4) != 0 || tw__le(local + 26, 2) != name || data > start ||
        start - data < size || data % 4096 != 0 || memcmp(local + 30, p + 46, (size_t)name) != 0)
        return TW__DAMAGED("a member's header is damaged");
    tw__member *member = &m->members[m->member_count++];
    memset(member, 0, sizeof *member);
    memcpy(member->name, p + 46, (size_t)name);
    member->span = (tw__span){m->data + data, size};
    *at += 46 + name + extra;
    *expected = data + size;
    return TW_OK;
}

static int32_t tw__read_directory(tw_model *m, tw_error *error) {
    if (m->bytes < 22) return TW__DAMAGED("it is too short");
    uint64_t end = m->bytes - 22;
    const unsigned char *p = m->data + end;
    if (memcmp(p, "PK\5\6\0\0\0\0", 8) != 0 || tw__le(p + 20, 2) != 0) return TW__DAMAGED("its last bytes are missing");
    uint64_t count = tw__le(p + 10, 2), size = tw__le(p + 12, 4), start = tw__le(p + 16, 4);
    if (start == 0xFFFFFFFF) {
        if (end < 76) return TW__DAMAGED("it is too short");
        end -= 76;
        p = m->data + end;
        if (memcmp(p, "PK\6\6", 4) != 0 || memcmp(p + 56, "PK\6\7", 4) != 0 || tw__le(p + 64, 8) != end)
            return TW__DAMAGED("its zip64 end is damaged");
        count = tw__le(p + 32, 8);
        size = tw__le(p + 40, 8);
        start = tw__le(p + 48, 8);
    }
    if (start > end || size != end - start || count > size / 46) return TW__DAMAGED("its directory is not where its end says");
    m->members = (tw__member *)calloc((size_t)count + 1, sizeof *m->members);
    if (m->members == NULL) return tw__fail(error, TW_RESOURCE, "no memory for the directory");
    uint64_t at = start, expected = 0;
    for (uint64_t i = 0; i < count; i++) {
        int32_t code = tw__read_member(m, &at, end, start, &expected, error);
        if (code != TW_OK) return code;
    }
    if (at != end || expected != start) return TW__DAMAGED("its directory does not fit its members");
    return TW_OK;
}

static const tw__member *tw__find(const tw_model *m, const char *name) {
    const tw__member *found = NULL;
    for (uint32_t i = 0; i < m->member_count; i++)
        if (strcmp(m->members[i].name, name) == 0) {
            if (found != NULL) return NULL; /* named twice: neither is trusted */
            found = &m->members[i];
        }
    return found;
}

/* A member whose size and SHA-256 are those of the manifest. */
static int32_t tw__checked(const tw_model *m, const char *name, tw__span *span, tw_error *error) {
    const tw__member *member = tw__find(m, name);
    uint32_t listed = tw__get(&m->json, tw__get(&m->json, 1, "members"), name);
    char digest[65];
    if (member == NULL || listed == 0) return tw__fail(error, TW_ARTIFACT, "member '%s' is missing", name);
    tw__sha256(member->span.data, member->span.bytes, digest);
    if (tw__number(&m->json, tw__get(&m->json, listed, "bytes")) != (int64_t)member->span.bytes ||
        strcmp(tw__text(&m->json, tw__get(&m->json, listed, "sha256")), digest) != 0)
        return tw__fail(error, TW_ARTIFACT, "member '%s' is damaged: its SHA-256 does not match the manifest", name);
    *span = member->span;
    return TW_OK;
}

static int32_t tw__read_manifest(tw_model *m, tw_error *error) {
    const tw__member *text = tw__find(m, "manifest.json"), *hash = tw__find(m, "manifest.sha256");
    char digest[65];
    if (text == NULL || hash == NULL) return tw__fail(error, TW_ARTIFACT, "the manifest is missing");
    tw__sha256(text->span.data, text->span.bytes, digest);
    if (hash->span.bytes != 64 || memcmp(digest, hash->span.data, 64) != 0)
        return tw__fail(error, TW_ARTIFACT, "the manifest is damaged: its SHA-256 does not match");
    m->manifest = (char *)malloc((size_t)text->span.bytes + 1);
    if (m->manifest == NULL) return tw__fail(error, TW_RESOURCE, "no memory for the manifest");
    memcpy(m->manifest, text->span.data, (size_t)text->span.bytes);
    m->json.at = m->manifest;
    m->json.end = m->manifest + text->span.bytes;
    uint32_t root = tw__value(&m->json, 0);
    tw__skip_space(&m->json);
    if (root != 1 || m->json.at != m->json.end) return tw__fail(error, TW_ARTIFACT, "the manifest is malformed");
    int64_t format = tw__number(&m->json, tw__get(&m->json, 1, "format")), abi = tw__number(&m->json, tw__get(&m->json, 1, "abi"));
    if (format != TW_FORMAT_VERSION || abi != TW_ABI_VERSION)
        return tw__fail(error, TW_ARTIFACT, "the artifact has format %d and interface %d, this loader reads %d and %d", (int)format,
                        (int)abi, TW_FORMAT_VERSION, TW_ABI_VERSION);
    return TW_OK;
}

/* -- code --------------------------------------------------------------------------------------------------------- */

#ifdef TILEWRIGHT_EMBEDDED /* exported libraries and programs bring their executor, and a loader of kernels of their own */
void *tw_embedded_load(const void *code, uint64_t bytes, char *why, size_t capacity);
void *tw_embedded_symbol(void *library, const char *name);
void tw_embedded_unload(void *library);
extern const tw_runtime tw_runtime_v1;

static int32_t tw__load(tw_model *m, int slot, tw__span code, tw_error *error) {
    char why[200] = "";
    m->libraries[slot] = tw_embedded_load(code.data, code.bytes, why, sizeof why);
    return m->libraries[slot] != NULL ? TW_OK : tw__fail(error, TW_DEVICE, "the code cannot be loaded: %s", why);
}
#define tw__symbol tw_embedded_symbol
#define tw__unload tw_embedded_unload
#else
#include <dlfcn.h>

static int tw__write_all(int descriptor, tw__span code) {
    for (uint64_t done = 0; done < code.bytes;) {
        ssize_t n = write(descriptor, code.data + done, (size_t)(code.bytes - done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        done += (uint64_t)n;
    }
    return 1;
}

/* From a memory file, else from a temporary file that loses its name at once. The descriptor of a memory file stays
 * open: the dynamic loader knows libraries by path, and a later one must not get this number. */
static int32_t tw__load(tw_model *m, int slot, tw__span code, tw_error *error) {
    char path[64], first[200] = "memory files are not to be had";
    int descriptor = (int)syscall(SYS_memfd_create, "tilewright", 1u /* MFD_CLOEXEC */);
    if (descriptor >= 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
        if (tw__write_all(descriptor, code) && (m->libraries[slot] = dlopen(path, RTLD_NOW | RTLD_LOCAL)) != NULL) {
            m->descriptors[slot] = descriptor;
            return TW_OK;
        }
        const char *why = dlerror();
        snprintf(first, sizeof first, "%s", why != NULL ? why : strerror(errno));
        close(descriptor);
    }
    char name[4096];
    const char *folder = getenv("TMPDIR");
    snprintf(name, sizeof name, "%s/tilewright-XXXXXX", folder != NULL && *folder != 0 ? folder : "/tmp");
    descriptor = mkstemp(name);
    if (descriptor < 0) return tw__fail(error, TW_DEVICE, "this system does not let code be loaded (%s; %s: %s)", first, name, strerror(errno));
    int written = tw__write_all(descriptor, code);
    if (written) m->libraries[slot] = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    const char *why = written ? dlerror() : strerror(errno);
    close(descriptor);
    unlink(name);
    if (m->libraries[slot] != NULL) return TW_OK;
    return tw__fail(error, TW_DEVICE, "this system does not let code be loaded (%s; %s)", first, why != NULL ? why : "");
}
#define tw__symbol dlsym
#define tw__unload dlclose
#endif

static int32_t tw__load_runtime(tw_model *m, uint32_t target, tw_error *error) {
#ifdef TILEWRIGHT_EMBEDDED
    (void)target;
    m->runtime = &tw_runtime_v1;
#else
    tw__span code;
    const char *name = tw__text(&m->json, tw__get(&m->json, tw__get(&m->json, target, "members"), "runtime.so"));
    int32_t status = tw__checked(m, name, &code, error);
    if (status == TW_OK) status = tw__load(m, 0, code, error);
    if (status != TW_OK) return status;
    m->runtime = (const tw_runtime *)tw__symbol(m->libraries[0], "tw_runtime_v1");
#endif
    if (m->runtime == NULL || m->runtime->abi != TW_ABI_VERSION || m->runtime->size < sizeof *m->runtime)
        return tw__fail(error, TW_ARTIFACT, "the artifact's executor has another interface");
    return TW_OK;
}

/* -- choosing a part ---------------------------------------------------------------------------------------------- */

/* Whether this machine has every feature of a part; the missing ones are added to `lacking`. */
static int tw__fits(const tw_model *m, uint32_t target, char *lacking, size_t capacity) {
    const tw__json *j = &m->json;
    int missing = 0;
    for (uint32_t row = j->nodes[tw__get(j, target, "requires")].child; row != 0; row = j->nodes[row].next) {
        uint32_t cell = j->nodes[row].child, field = cell;
        int64_t value[4] = {-1, -1, -1, -1};
        for (int i = 0; i < 4; i++) value[i] = tw__number(j, field = j->nodes[field].next);
        int known = value[0] >= 0 && value[1] >= 0 && value[2] >= 0 && value[3] >= 0 && value[3] < 64;
        if (known && m->runtime->cpu_has((uint32_t)value[0], (uint32_t)value[1], (uint32_t)value[2], (uint32_t)value[3])) continue;
        size_t used = strlen(lacking);
        snprintf(lacking + used, capacity - used, "%s%s", missing++ ? ", " : "", tw__text(j, cell));
    }
    return missing == 0;
}

/* -- parts for GPUs */

static int tw__is_device_part(const tw_model *m, uint32_t target) {
    return tw__get(&m->json, tw__get(&m->json, target, "members"), "modules.bin") != 0;
}

/* The number in "cuda:sm_90". */
static int32_t tw__arch(const tw_model *m, uint32_t target) {
    const char *at = strstr(tw__text(&m->json, tw__get(&m->json, target, "target")), "sm_");
    return at != NULL ? (int32_t)strtol(at + 3, NULL, 10) : 0;
}

/* The best part for a GPU: the newest machine code that it runs, else (`jit`) the newest PTX that it can be compiled from.
 * Code from sm_90 on is for one GPU alone and has no PTX. 0 when there is none. */
static uint32_t tw__part_for(const tw_model *m, const char *wanted, const tw_device *gpu, int jit) {
    const tw__json *j = &m->json;
    uint32_t best = 0;
    for (int pass = 0; pass < (jit ? 2 : 1) && best == 0; pass++)
        for (uint32_t t = j->nodes[tw__get(j, 1, "targets")].child; t != 0; t = j->nodes[t].next) {
            int32_t arch = tw__arch(m, t);
            if (!tw__is_device_part(m, t) || (wanted != NULL && strcmp(wanted, tw__text(j, tw__get(j, t, "target"))) != 0)) continue;
            int fits = pass == 0 ? m->runtime->device_runs(arch, gpu->major, gpu->minor) : arch < 90 && arch <= 10 * gpu->major + gpu->minor;
            if (fits && (best == 0 || arch > tw__arch(m, best))) best = t;
        }
    return best;
}

/* The first part for a GPU whose host is a machine like this one, with its executor loaded; `held` gets the names of all. */
static uint32_t tw__device_parts(tw_model *m, const char *wanted, const char *machine, char *held, size_t capacity, int32_t *code,
                                 tw_error *error) {
    const tw__json *j = &m->json;
    uint32_t first = 0;
    for (uint32_t t = j->nodes[tw__get(j, 1, "targets")].child; t != 0; t = j->nodes[t].next) {
        const char *name = tw__text(j, tw__get(j, t, "target"));
        if (!tw__is_device_part(m, t) || (wanted != NULL && strcmp(wanted, name) != 0)) continue;
        if (strcmp(tw__text(j, tw__get(j, tw__get(j, t, "host"), "family")), machine) != 0) continue;
        size_t used = strlen(held);
        snprintf(held + used, capacity - used, "%s%s", used ? ", " : "", name);
        if (first == 0) first = t;
    }
    *code = first != 0 && m->runtime == NULL ? tw__load_runtime(m, first, error) : TW_OK;
    return *code == TW_OK ? first : 0;
}

/* A part for GPU `*index`, or for the first GPU that has one (-1); `chosen` stays 0 where the artifact has none of this
 * machine's kind. */
static int32_t tw__choose_device(tw_model *m, const tw_options *options, int32_t *index, const char *machine, uint32_t *chosen, tw_error *error) {
    char held[400] = "", lacking[400] = "";
    tw_device gpu;
    int32_t code, count = 0, at = *index < 0 ? 0 : *index, jit = options != NULL && options->allow_jit;
    uint32_t best = 0;
    const char *wanted = options != NULL ? options->target : NULL, *driver = options != NULL ? options->driver : NULL;
    if (tw__device_parts(m, wanted, machine, held, sizeof held, &code, error) == 0) return code;
    if ((code = m->runtime->device_count(driver, &count, error)) != TW_OK) return code;
    do {
        if ((code = m->runtime->device_describe(driver, at, &gpu, error)) != TW_OK) return code;
        best = tw__part_for(m, wanted, &gpu, jit);
    } while (best == 0 && *index < 0 && ++at < count);
    *index = at;
    if (best == 0)
        return tw__fail(error, TW_DEVICE, "no code for this GPU: %.80s has compute capability %d.%d; the file holds %s%s", gpu.name, gpu.major,
                        gpu.minor, held, tw__part_for(m, wanted, &gpu, 1) ? ". Allow the driver to compile its PTX (allow_jit)" : "");
    int steps = tw__get(&m->json, tw__get(&m->json, best, "members"), "kernels.so") != 0; /* on the host */
    if (steps && !tw__fits(m, tw__get(&m->json, best, "host"), lacking, sizeof lacking))
        return tw__fail(error, TW_DEVICE, "the processor beside the GPU lacks features of the host part: %s", lacking);
    *chosen = best;
    snprintf(m->target, sizeof m->target, "%s", tw__text(&m->json, tw__get(&m->json, best, "target")));
    return TW_OK;
}

/* What `device` names: -1 the processor, 0 anything, 1 a GPU, whose index is set (-1: any); -2 none of these. */
static int tw__device_kind(const char *device, int32_t *index) {
    *index = -1;
    if (device == NULL || strcmp(device, "auto") == 0) return 0;
    if (strcmp(device, "cpu") == 0) return -1;
    if (strncmp(device, "cuda", 4) != 0) return -2;
    if (device[4] == 0) return 1;
    char *end;
    long number = strtol(device + 5, &end, 10);
    if (device[4] != ':' || device[5] < '0' || device[5] > '9' || *end != 0 || number > 1000000) return -2;
    *index = (int32_t)number;
    return 1;
}

static int32_t tw__choose(tw_model *m, const char *wanted, uint32_t *chosen, tw_error *error) {
    const tw__json *j = &m->json;
    struct utsname system;
    char lacking[800] = "";
    uint32_t candidates = 0;
    if (uname(&system) != 0) return tw__fail(error, TW_DEVICE, "this system does not say what it is");
    int programs = 0;
    const char *sources = NULL;
    for (uint32_t t = j->nodes[tw__get(j, 1, "targets")].child; t != 0; t = j->nodes[t].next) {
        const char *name = tw__text(j, tw__get(j, t, "target"));
        if (wanted != NULL && strcmp(wanted, name) != 0) continue;
        if (tw__get(j, tw__get(j, t, "members"), "program.json") != 0) { /* its plan is only what runs between programs */
            programs = 1;
            continue;
        }
        if (tw__is_device_part(m, t)) continue;
        if (tw__get(j, tw__get(j, t, "members"), "launches.json") != 0) sources = name; /* not compiled yet */
        if (strcmp(tw__text(j, tw__get(j, t, "family")), system.machine) != 0) continue;
        if (m->runtime == NULL) {
            int32_t code = tw__load_runtime(m, t, error);
            if (code != TW_OK) return code;
        }
        size_t used = strlen(lacking);
        snprintf(lacking + used, sizeof lacking - used, "%s%s needs ", candidates++ ? "; " : "", name);
        if (!tw__fits(m, t, lacking, sizeof lacking)) continue;
        snprintf(m->target, sizeof m->target, "%s", name);
        *chosen = t;
        return TW_OK;
    }
    if (candidates > 0) return tw__fail(error, TW_DEVICE, "this CPU lacks features of every part: %s", lacking);
    if (programs) return tw__fail(error, TW_DEVICE, "the artifact holds programs for XLA: open it with tilewright_pjrt.h and a PJRT plugin");
    if (sources != NULL)
        return tw__fail(error, TW_DEVICE, "the kernels for %s are source text: write the project with `tilewright export --as dir`, and "
                                          "build it where the device's toolkit is", sources);
    return tw__fail(error, TW_DEVICE, "the artifact holds nothing for %s%s%s", system.machine, wanted ? " named " : "", wanted ? wanted : "");
}

/* -- opening ------------------------------------------------------------------------------------------------------ */

/* Where the weights are, aligned, and the sums of their segments. */
static int32_t tw__place_weights(tw_model *m, tw_weights *weights, tw__span *sums, tw_error *error) {
    const tw__member *member = tw__find(m, "weights");
    int32_t code = tw__checked(m, "weights.crc32c", sums, error);
    if (code != TW_OK) return code;
    if (member == NULL || sums->bytes != (member->span.bytes / 4096 + (member->span.bytes % 4096 != 0)) * 4)
        return tw__fail(error, TW_ARTIFACT, "the weights are damaged: they have another length than their checksums");
    weights->data = m->weights_copy != NULL ? m->weights_copy : member->span.data;
    weights->bytes = member->span.bytes;
    if ((uintptr_t)weights->data % TW_ALIGNMENT != 0) {
        m->weights_copy = aligned_alloc(TW_ALIGNMENT, (size_t)(weights->bytes / TW_ALIGNMENT + 1) * TW_ALIGNMENT);
        if (m->weights_copy == NULL) return tw__fail(error, TW_RESOURCE, "no memory for the weights");
        weights->data = memcpy(m->weights_copy, weights->data, (size_t)weights->bytes);
    }
    return TW_OK;
}

static int32_t tw__check_weights(tw_model *m, int32_t threads, tw_weights *weights, tw_error *error) {
    tw__span sums;
    int32_t code = tw__place_weights(m, weights, &sums, error);
    if (code != TW_OK || m->weights_checked) return code;
    int64_t bad = m->runtime->check_crc(weights->data, weights->bytes, sums.data, threads);
    if (bad >= 0) return tw__fail(error, TW_ARTIFACT, "the weights are damaged from byte %lld on", (long long)bad * 4096);
    return TW_OK;
}

/* The manifest's tensors: [name, offset, bytes, …] in ascending order of name. */
static int32_t tw__list_weights(const tw_model *m, tw_weight **tensors, uint32_t *count, tw_error *error) {
    const tw__json *j = &m->json;
    uint32_t list = j->nodes[tw__get(j, tw__get(j, 1, "weights"), "tensors")].child, n = 0;
    for (uint32_t i = list; i != 0; i = j->nodes[i].next) n++;
    *tensors = (tw_weight *)calloc((size_t)n + 1, sizeof **tensors);
    if (*tensors == NULL) return tw__fail(error, TW_RESOURCE, "no memory for the list of weights");
    for (uint32_t i = list; i != 0; i = j->nodes[i].next) {
        uint32_t name = j->nodes[i].child, offset = j->nodes[name].next, bytes = j->nodes[offset].next;
        if (tw__number(j, offset) < 0 || tw__number(j, bytes) < 0) return tw__fail(error, TW_ARTIFACT, "the manifest's weights are malformed");
        (*tensors)[*count] = (tw_weight){tw__text(j, name), (uint64_t)tw__number(j, offset), (uint64_t)tw__number(j, bytes)};
        if (*count > 0 && strcmp((*tensors)[*count - 1].name, (*tensors)[*count].name) >= 0)
            return tw__fail(error, TW_ARTIFACT, "the manifest's weights are out of order");
        ++*count;
    }
    return TW_OK;
}

static int32_t tw__make_plan(tw_model *m, uint32_t target, int32_t threads, tw_error *error) {
    uint32_t members = tw__get(&m->json, target, "members");
    tw__span plan, kernels;
    tw_weights weights = {NULL, 0, NULL, 0};
    tw_weight *tensors = NULL;
    if (threads < 1) threads = m->runtime->threads_default();
    int32_t code = tw__checked(m, tw__text(&m->json, tw__get(&m->json, members, "plan.bin")), &plan, error);
    if (code == TW_OK) code = tw__checked(m, tw__text(&m->json, tw__get(&m->json, members, "kernels.so")), &kernels, error);
    if (code == TW_OK) code = tw__check_weights(m, threads, &weights, error);
    if (code == TW_OK) code = tw__list_weights(m, &tensors, &weights.count, error);
    weights.tensor = tensors;
    if (code == TW_OK) code = tw__load(m, 1, kernels, error);
    if (code == TW_OK) {
        const tw_kernel *table = (const tw_kernel *)tw__symbol(m->libraries[1], "tw_kernels_v1");
        const uint32_t *count = (const uint32_t *)tw__symbol(m->libraries[1], "tw_kernel_count_v1");
        code = table != NULL && count != NULL
                   ? m->runtime->create(&m->plan, plan.data, plan.bytes, &weights, table, *count, threads, error)
                   : tw__fail(error, TW_ARTIFACT, "the artifact's kernels have another interface");
    }
    free(tensors);
    return code;
}

/* The CUDA version that the driver must support at least. Code of one generation of ptxas runs on every driver of that
 * generation (CUDA, "Minor Version Compatibility"). */
static int32_t tw__driver_needed(const tw_model *m) {
    const tw__json *j = &m->json;
    const char *version = tw__text(j, tw__get(j, tw__get(j, tw__get(j, 1, "provenance"), "tools"), "ptxas"));
    long major = strtol(version, NULL, 10);
    return major > 0 && major < 1000 ? (int32_t)major * 1000 : 0;
}

/* The same for a GPU; there are kernels of the host only where the plan has steps there. */
static int32_t tw__make_device_plan(tw_model *m, uint32_t target, int32_t index, const tw_options *options, tw_error *error) {
    uint32_t members = tw__get(&m->json, target, "members");
    int32_t threads = options != NULL && options->threads > 0 ? options->threads : m->runtime->threads_default();
    tw__span plan, modules, kernels = {NULL, 0};
    tw_weights weights = {NULL, 0, NULL, 0};
    tw_weight *tensors = NULL;
    tw_device_options device;
    memset(&device, 0, sizeof device);
    int32_t code = tw__checked(m, tw__text(&m->json, tw__get(&m->json, members, "plan.bin")), &plan, error);
    if (code == TW_OK) code = tw__checked(m, tw__text(&m->json, tw__get(&m->json, members, "modules.bin")), &modules, error);
    if (code == TW_OK && tw__get(&m->json, members, "kernels.so") != 0)
        code = tw__checked(m, tw__text(&m->json, tw__get(&m->json, members, "kernels.so")), &kernels, error);
    if (code == TW_OK) code = tw__check_weights(m, threads, &weights, error);
    if (code == TW_OK) code = tw__list_weights(m, &tensors, &weights.count, error);
    weights.tensor = tensors;
    if (code == TW_OK && kernels.bytes > 0) code = tw__load(m, 1, kernels, error);
    if (code == TW_OK) {
        const uint32_t *count = m->libraries[1] != NULL ? (const uint32_t *)tw__symbol(m->libraries[1], "tw_kernel_count_v1") : NULL;
        device.size = sizeof device;
        device.flags = options != NULL && options->allow_jit ? TW_ALLOW_JIT : 0;
        device.device = index;
        device.driver_needed = tw__driver_needed(m);
        device.threads = threads;
        device.library = options != NULL ? options->driver : NULL;
        device.modules = modules.data;
        device.module_bytes = modules.bytes;
        device.host_kernels = m->libraries[1] != NULL ? (const tw_kernel *)tw__symbol(m->libraries[1], "tw_kernels_v1") : NULL;
        device.host_kernel_count = count != NULL ? *count : 0;
        code = m->runtime->create_device(&m->plan, plan.data, plan.bytes, &weights, &device, error);
    }
    free(tensors);
    return code;
}

/* A GPU's part, where `device` allows one; else (`target` 0) the processor's is looked for. A GPU that nobody asked for by
 * name may be missing: `why` then says so, should there be no other part. */
static int32_t tw__choose_first(tw_model *m, const tw_options *options, uint32_t *target, int32_t *index, tw_error *why, tw_error *error) {
    struct utsname system;
    int kind = tw__device_kind(options != NULL ? options->device : NULL, index);
    if (kind == -2) return tw__fail(error, TW_USAGE, "there is no device '%s': name cpu, cuda, cuda:1 or auto", options->device);
    if (kind < 0) return TW_OK;
    if (uname(&system) != 0) return tw__fail(error, TW_DEVICE, "this system does not say what it is");
    int32_t code = tw__choose_device(m, options, index, system.machine, target, kind == 1 ? error : why);
    if (kind == 1 && code == TW_OK && *target == 0)
        return tw__fail(error, TW_DEVICE, "the artifact holds nothing for NVIDIA GPUs beside a processor %s", system.machine);
    return kind == 1 || code == TW_OK || code == TW_DEVICE ? (kind == 1 ? code : TW_OK) : tw__fail(error, code, "%s", why->text);
}

static int32_t tw__open_bytes(tw_model *m, const tw_options *options, tw_error *error) {
    uint32_t target = 0;
    int32_t index = 0, code = tw__read_directory(m, error);
    tw_error why = {0, ""};
    if (code == TW_OK) code = tw__read_manifest(m, error);
    if (code == TW_OK) code = tw__choose_first(m, options, &target, &index, &why, error);
    if (code == TW_OK && target != 0) return tw__make_device_plan(m, target, index, options, error);
    if (code == TW_OK) code = tw__choose(m, options != NULL ? options->target : NULL, &target, error);
    if (code == TW_DEVICE && target == 0 && why.code != 0) code = tw__fail(error, why.code, "%s", why.text);
    if (code == TW_OK) code = tw__make_plan(m, target, options != NULL ? options->threads : 0, error);
    return code;
}

static tw_model *tw__new_model(tw_error *error) {
    tw_model *m = (tw_model *)calloc(1, sizeof *m);
    if (error != NULL) memset(error, 0, sizeof *error);
    if (m == NULL) tw__fail(error, TW_RESOURCE, "no memory for the model");
    else m->descriptors[0] = m->descriptors[1] = -1;
    return m;
}

static int32_t tw__finish(tw_model **model, tw_model *m, int32_t code) {
    *model = code == TW_OK ? m : NULL;
    if (code != TW_OK) tw_close(m);
    return code;
}

int32_t tw_open_memory(tw_model **model, const void *data, uint64_t bytes, const tw_options *options, tw_error *error) {
    tw_model *m = tw__new_model(error);
    *model = NULL;
    if (m == NULL) return TW_RESOURCE;
    m->data = (const unsigned char *)data;
    m->bytes = bytes;
    return tw__finish(model, m, tw__open_bytes(m, options, error));
}

static int32_t tw__read_file(tw_model *m, int file, const char *path, int copy, tw_error *error) {
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) return tw__fail(error, TW_USAGE, "%s: not a regular file", path);
    m->bytes = (uint64_t)status.st_size;
    if (m->bytes == 0) return tw__fail(error, TW_ARTIFACT, "%s: it is empty", path);
    if (!copy) {
        void *memory = mmap(NULL, (size_t)m->bytes, PROT_READ, MAP_PRIVATE, file, 0);
        if (memory == MAP_FAILED) return tw__fail(error, TW_RESOURCE, "%s: cannot be mapped (%s)", path, strerror(errno));
        m->data = (const unsigned char *)(m->mapped = memory);
        return TW_OK;
    }
    m->owned = aligned_alloc(4096, (size_t)(m->bytes / 4096 + 1) * 4096);
    if (m->owned == NULL) return tw__fail(error, TW_RESOURCE, "%s: no memory for %llu bytes", path, (unsigned long long)m->bytes);
    for (uint64_t done = 0; done < m->bytes;) {
        ssize_t n = read(file, (char *)m->owned + done, (size_t)(m->bytes - done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return tw__fail(error, TW_ARTIFACT, "%s: it became shorter while it was read", path);
        done += (uint64_t)n;
    }
    m->data = (const unsigned char *)m->owned;
    return TW_OK;
}

int32_t tw_open(tw_model **model, const char *path, const tw_options *options, tw_error *error) {
    tw_model *m = tw__new_model(error);
    *model = NULL;
    if (m == NULL) return TW_RESOURCE;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return tw__finish(model, m, tw__fail(error, TW_USAGE, "%s: %s", path, strerror(errno)));
    int32_t code = tw__read_file(m, file, path, options != NULL && options->copy, error);
    close(file);
    if (code == TW_OK) code = tw__open_bytes(m, options, error);
    return tw__finish(model, m, code);
}

void tw_close(tw_model *m) {
    if (m == NULL) return;
    if (m->plan != NULL) m->runtime->destroy(m->plan);
    for (int i = 1; i >= 0; i--) {
        if (m->libraries[i] != NULL) tw__unload(m->libraries[i]);
        if (m->descriptors[i] >= 0) close(m->descriptors[i]);
    }
    if (m->mapped != NULL) munmap(m->mapped, (size_t)m->bytes);
    free(m->owned);
    free(m->weights_copy);
    free(m->members);
    free(m->manifest);
    free(m->json.nodes);
    free(m);
}

const char *tw_target(const tw_model *m) { return m->target; }
uint32_t tw_input_count(const tw_model *m, uint32_t entry) { return m->runtime->input_count(m->plan, entry); }
uint32_t tw_output_count(const tw_model *m, uint32_t entry) { return m->runtime->output_count(m->plan, entry); }
const tw_signature *tw_input(const tw_model *m, uint32_t entry, uint32_t i) { return m->runtime->input(m->plan, entry, i); }
const tw_signature *tw_output(const tw_model *m, uint32_t entry, uint32_t i) { return m->runtime->output(m->plan, entry, i); }
void tw_free(tw_model *m, void *data) { m->runtime->release(data); }

const tw_runtime *tw_executor(const tw_model *m, tw_plan **plan) {
    *plan = m->plan;
    return m->runtime;
}

int32_t tw_entry(const tw_model *m, const char *name) {
    for (uint32_t i = 0; i < m->runtime->entry_count(m->plan); i++)
        if (strcmp(m->runtime->entry_name(m->plan, i), name) == 0) return (int32_t)i;
    return -1;
}

int32_t tw_shapes(tw_model *m, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                  uint32_t output_count, tw_error *error) {
    return m->runtime->shapes(m->plan, entry, inputs, input_count, outputs, output_count, NULL, NULL, error);
}

int32_t tw_run(tw_model *m, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
               uint32_t output_count, tw_error *error) {
    return m->runtime->run(m->plan, entry, inputs, input_count, outputs, output_count, NULL, error);
}

#endif /* TILEWRIGHT_IMPLEMENTATION */
