/* What the files of the plan executor share. Nothing here is visible outside the library. */
#ifndef TILEWRIGHT_EXECUTOR_H
#define TILEWRIGHT_EXECUTOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <pthread.h>

#include "kernel_abi.h"
#include "tilewright.h"

#define PLAN_MAGIC 0x4C505754u /* "TWPL" */
#define PLAN_VERSION 2u
#define STACK_LIMIT 32    /* values an expression may have pending */
#define CALL_LIMIT 8      /* entry points active at a time in one run */
#define LAYOUT_LIMIT 32   /* shapes remembered for each entry point */
#define CONTEXT_LIMIT 8   /* idle execution contexts kept */
#ifndef BUDGET
#define BUDGET 100000000u /* instructions of one run: a loop without end stops here */
#endif
#define NONE 0xFFFFFFFFu

enum { BUFFER_INPUT, BUFFER_OUTPUT, BUFFER_CONSTANT, BUFFER_TEMPORARY, BUFFER_STATE };
enum { OP_LAUNCH, OP_COPY, OP_LOAD, OP_ASSERT, OP_ALLOCATE, OP_FREE, OP_JUMP, OP_SET, OP_CALL, OP_RETURN, OP_HOST_LAUNCH, OP_COUNT };
/* Where a buffer lies. A plan on the CPU has its only space, number 0 in its bytes, on the host. */
enum { SPACE_DEVICE, SPACE_HOST, SPACES };
enum { EXPR_CONST, EXPR_SYMBOL, EXPR_ADD, EXPR_MUL, EXPR_FLOORDIV, EXPR_MOD, EXPR_MIN, EXPR_MAX };

/* Postfix code; `dynamic` when a symbol in it is set while the program runs. */
typedef struct {
    const uint32_t *code;
    uint32_t count;
    bool dynamic;
} Expr;

typedef struct {
    tw_signature text;
    uint32_t dim[TW_MAX_RANK]; /* expressions */
    uint32_t space;            /* where the plan wants it; NONE when no buffer names it */
    bool dynamic;
} Signature;

typedef struct {
    const char *name;
    int64_t lo, hi, divisor;
    uint32_t input, dim; /* where it takes its value; input is NONE for a symbol that only a call can give */
} Symbol;

/* `root` is the buffer at the end of the chain of views. `dynamic`: its address is known only at its use. */
typedef struct {
    uint32_t kind, space, index, size, offset, base, root, first, last;
    bool dynamic, allocated;
} Buffer;

typedef struct {
    uint32_t op;
    const uint32_t *arg;
} Instruction;

/* Everything that the values of an entry's symbols decide; shared by runs, never changed. */
typedef struct {
    uint32_t references;
    uint64_t stamp;
    int64_t *symbol, *value, *place; /* by symbol, by expression, by buffer (offset in the arena or from the root) */
    int64_t arena_bytes[SPACES], live_bytes[SPACES];
    int64_t scratch_bytes, global_bytes; /* of the device: most that a launch of known size asks for */
} Layout;

typedef struct {
    const char *name;
    Symbol *symbols;
    Expr *exprs;
    Signature *inputs, *outputs;
    uint32_t *states; /* pairs: input, output */
    Buffer *buffers;
    Instruction *code;
    uint32_t symbol_count, local_count, expr_count, input_count, output_count, state_count, buffer_count, code_count;
    uint32_t argument_limit; /* most buffers plus dimensions of a launch, or buffers of a call */
    bool replayable;         /* what is launched hangs on the symbols alone, and nothing of it on the host */
    Layout *layouts[LAYOUT_LIMIT];
    uint32_t layout_count;
} Entry;

typedef struct {
    const char *name;
    const void *data;
    int64_t bytes;
} Constant;

/* Memory of one run. */
typedef struct Context {
    struct Context *next;
    void *arena[CALL_LIMIT], *frame[CALL_LIMIT], *scratch;
    size_t arena_bytes[CALL_LIMIT], frame_bytes[CALL_LIMIT], scratch_bytes;
    struct Stream *stream; /* of a plan on a GPU, with its arenas: device.h */
    uint64_t budget;
    tw_profile *profile;
    tw_error *error;
} Context;

/* `cursor` holds a job's chunk count (bits 16–31) and the next chunk (bits 0–15): taking a chunk is one addition, and
 * what it returns says whether the chunk exists, so that a late worker can join any job or none. */
typedef struct {
    _Alignas(64) _Atomic uint32_t cursor;
    _Alignas(64) _Atomic uint32_t done;
    _Alignas(64) _Atomic uint32_t generation; /* what sleepers wait on */
    _Atomic uint32_t sleepers, busy, runs, stop;
    _Atomic int64_t process;
    int32_t threads, started;
    pthread_t *handles;
    struct Worker *workers;
    tw_kernel kernel;
    tw_args args;
    unsigned char *scratch;
    int64_t scratch_stride, grid, chunk;
} Pool;

struct tw_plan {
    uint32_t *words;
    char *strings;
    uint32_t string_bytes;
    void **owned; /* every block the plan holds */
    size_t owned_count, owned_capacity;
    const char **kernel_names;
    const tw_kernel *kernels;
    const char **host_names;       /* of a plan on a GPU: kernels that its host runs */
    const tw_kernel *host_kernels;
    uint32_t kernel_count, host_count, constant_count, entry_count;
    struct Device *device; /* NULL: all of it runs on the CPU */
    Constant *constants;
    Entry *entries;
    pthread_mutex_t lock; /* layouts and idle contexts */
    uint64_t clock;
    Context *idle;
    uint32_t idle_count;
    Pool pool;
};

/* error.c */
int32_t twr_fail(tw_error *error, int32_t code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* read.c */
int32_t twr_read(tw_plan *plan, const void *data, uint64_t bytes, uint32_t kernels_present, uint32_t host_present,
                 bool on_device, tw_error *error);
void *twr_own(tw_plan *plan, size_t count, size_t size);

/* verify.c */
int32_t twr_verify_plan(tw_plan *plan, tw_error *error);

/* expr.c */
bool twr_expr_valid(const uint32_t *code, uint32_t count, uint32_t symbols);
bool twr_evaluate(const Expr *expr, const int64_t *symbols, int64_t *result);
bool twr_tensor_bytes(int32_t dtype, const int64_t *dim, int32_t rank, int64_t *bytes);
int32_t twr_element_bits(int32_t dtype);

/* bind.c */
int32_t twr_bind(const Entry *entry, const tw_tensor *inputs, uint32_t count, int64_t *symbols, tw_error *error);
int32_t twr_check_symbols(const Entry *entry, const int64_t *symbols, tw_error *error);

/* layout.c */
int32_t twr_layout(tw_plan *plan, Entry *entry, const int64_t *symbols, Layout **layout, tw_error *error);
void twr_release_layout(tw_plan *plan, Layout *layout);

/* pool.c */
#define THREAD_LIMIT 256 /* chunks of a job must fit 16 bits */
bool twr_pool_create(Pool *pool, int32_t threads);
void twr_pool_destroy(Pool *pool);
uint64_t twr_pool_enter(tw_plan *plan);
void twr_pool_leave(tw_plan *plan, uint64_t floating_point);
void twr_pool_run(Pool *pool, tw_kernel kernel, const tw_args *args, unsigned char *scratch, int64_t stride, int64_t grid);

/* runtime.c */
void twr_forget_runs(tw_plan *plan);

/* execute.c */
typedef struct {
    void *data;
    int64_t bytes;
    bool owned; /* allocated by the run, freed when it fails */
} Memory;
int32_t twr_execute(tw_plan *plan, Context *context, uint32_t entry, Layout *layout, uint32_t depth, const Memory *inputs,
                    Memory *outputs, int64_t (*out_dims)[TW_MAX_RANK]);
bool twr_reserve(void **memory, size_t *capacity, size_t bytes);
void *twr_aligned(size_t bytes);

/* cpu.c, crc32c.c */
int32_t twr_cpu_has(uint32_t kind, uint32_t leaf, uint32_t subleaf, uint32_t bit);
int32_t twr_threads_default(void);
double twr_cpu_quota(const char *root);
int64_t twr_check_crc(const void *data, uint64_t bytes, const void *table, int32_t threads);

#endif
