/* tilewright.h: open a model.tw and run it. A single-file loader for C and C++ on Linux.
 *
 *     #define TILEWRIGHT_IMPLEMENTATION      // in exactly one C file
 *     #include "tilewright.h"
 *
 * Link with libpthread and, on glibc before 2.34, libdl. Every function that can fail returns a TW_… code (also the
 * exit code of the command line) and fills a tw_error. An opened model may be run by many threads at a time.
 */
#ifndef TILEWRIGHT_H
#define TILEWRIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "kernel_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TW_FORMAT_VERSION 1 /* of the artifact */
#define TW_ABI_VERSION 1    /* of everything below */
#define TW_MAX_RANK 16

enum { TW_OK = 0, TW_INTERNAL = 1, TW_USAGE = 2, TW_RESOURCE = 7, TW_DEVICE = 8, TW_ARTIFACT = 9 };

typedef struct {
    int32_t code;
    char text[1020];
} tw_error;

/* A dense tensor in row-major order. `dtype` is the ONNX TensorProto.DataType number; 4-bit types hold two in a byte.
 *
 * As an output: `data` NULL asks for memory, to be given back with tw_free; else `bytes` is what `data` can hold.
 * A state (an output that aliases an input) given the input's own memory is updated in place. */
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
    void (*release)(void *data); /* memory that `run` allocated for an output */
} tw_runtime;

#ifdef __cplusplus
}
#endif
#endif
