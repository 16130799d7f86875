/* tilewright_pjrt.h: open a model.tw that holds programs for XLA (tpu:…, xla:…) on any PJRT plugin, and run it. For C
 * programs on Linux; it needs tilewright.h, pjrt.h and crc32c.h beside it, and no Python.
 *
 *     #define TILEWRIGHT_PJRT_IMPLEMENTATION      // in exactly one C file (C11)
 *     #include "tilewright_pjrt.h"
 *
 *     tw_pjrt *model;
 *     tw_error error;
 *     tw_pjrt_options options = {.plugin = "libtpu.so", .allow_jit = 1};
 *     if (tw_pjrt_open(&model, "model.tw", &options, &error) != TW_OK) return puts(error.text), error.code;
 *     tw_tensor x = {data, bytes, 1, 2, {8, 384}}, y = {0};
 *     tw_pjrt_run(model, 0, &x, 1, &y, 1, &error);  …  tw_pjrt_free(y.data);  tw_pjrt_close(model);
 *
 * Link with libpthread, libm and, on glibc before 2.34, libdl. Errors are as in tilewright.h: TW_USAGE for inputs that do
 * not fit, TW_RESOURCE for memory, TW_DEVICE for a plugin, device or executable that is missing, TW_ARTIFACT for damage.
 * An opened model may be run by many threads at a time. Weights go to the device once and stay there.
 *
 * A program is run from its executable in the artifact, else from one kept in a folder of compiled executables, else it is
 * compiled, but only when that is allowed: it takes seconds to minutes. What was compiled is kept in that folder.
 */
#ifndef TILEWRIGHT_PJRT_H
#define TILEWRIGHT_PJRT_H

#include "tilewright.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tw_pjrt tw_pjrt;

/* Zero means the default everywhere. */
typedef struct {
    const char *plugin; /* path of a PJRT plugin; needed */
    const char *target; /* run exactly this part ("tpu:v5e"); default: the one part for the plugin's platform */
    const char *cache;  /* folder of compiled executables, "" for none; default: tilewright/pjrt in $XDG_CACHE_HOME or ~/.cache */
    int32_t allow_jit;  /* compile programs that have no executable for this plugin */
    int32_t threads;    /* of steps on the host, and of the check of the weights; default: processors that are online */
    int32_t copy;       /* read the file instead of mapping it, when it may change while it is open */
} tw_pjrt_options;

/* What happened so far; seconds are wall-clock. */
typedef struct {
    double artifact, plugin, client, check; /* open and hash; load the plugin; start it; wait for the check of the weights */
    double compile, load, weights;          /* compile programs; load executables; weights to the device */
    uint32_t compiled, cached, ahead;       /* programs by where their executable came from: made here, kept, in the artifact */
    uint64_t weight_bytes;                  /* on the device */
    char platform[64], version[256], device[64];
    char note[512]; /* the last executable or cache entry that was passed over, and why */
} tw_pjrt_report;

TW_API int32_t tw_pjrt_open(tw_pjrt **model, const char *path, const tw_pjrt_options *options, tw_error *error);
/* The same for bytes that stay as they are until tw_pjrt_close. */
TW_API int32_t tw_pjrt_open_memory(tw_pjrt **model, const void *data, uint64_t bytes, const tw_pjrt_options *options, tw_error *error);
/* Ends a model that no thread is running. The plugin stays loaded: it cannot be ended safely. */
TW_API void tw_pjrt_close(tw_pjrt *model);

TW_API const char *tw_pjrt_target(const tw_pjrt *model);
/* Index of an entry point by name, or -1; the first is 0. */
TW_API int32_t tw_pjrt_entry(const tw_pjrt *model, const char *name);
TW_API uint32_t tw_pjrt_input_count(const tw_pjrt *model, uint32_t entry);
TW_API uint32_t tw_pjrt_output_count(const tw_pjrt *model, uint32_t entry);
TW_API const tw_signature *tw_pjrt_input(const tw_pjrt *model, uint32_t entry, uint32_t index);
TW_API const tw_signature *tw_pjrt_output(const tw_pjrt *model, uint32_t entry, uint32_t index);
/* Loads or compiles what inputs of these types and shapes need (data is not read) and brings its weights to the device. A
 * run does the same when it has to. Programs after a step that finds sizes by itself wait for the run. */
TW_API int32_t tw_pjrt_prepare(tw_pjrt *model, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_error *error);
/* Runs an entry point; see tw_tensor for outputs. An output may be given the memory of an input. */
TW_API int32_t tw_pjrt_run(tw_pjrt *model, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                           uint32_t output_count, tw_error *error);
/* Memory that tw_pjrt_run gave to an output. */
TW_API void tw_pjrt_free(void *data);
TW_API void tw_pjrt_read_report(tw_pjrt *model, tw_pjrt_report *report);

#ifdef __cplusplus
}
#endif
#endif /* TILEWRIGHT_PJRT_H */

/* ================================================================================================================= */

#if defined(TILEWRIGHT_PJRT_IMPLEMENTATION) && !defined(TILEWRIGHT_PJRT_IMPLEMENTED)
#define TILEWRIGHT_PJRT_IMPLEMENTED

#ifndef TILEWRIGHT_IMPLEMENTED
#define TILEWRIGHT_IMPLEMENTATION
#include "tilewright.h"
#endif
#include "crc32c.h"
#include "pjrt.h"

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define TWP_STACK 64   /* values that an expression may need at a time */
#define TWP_SYMBOLS 256 /* of an entry point */
#define TWP_UNKNOWN INT64_MIN

/* -- what program.json says ---------------------------------------------------------------------------------------- */

enum { TWP_NUMBER, TWP_SYMBOL, TWP_ADD, TWP_MUL, TWP_DIV, TWP_MOD, TWP_MIN, TWP_MAX };

typedef struct {
    int32_t op;
    int64_t value; /* a number, or the index of a symbol */
} twp__token;

typedef struct {
    const twp__token *token;
    uint32_t count;
} twp__expr;

typedef struct {
    const char *text;
    int32_t dtype, bits, type; /* ONNX number, bits of an element, PJRT's number or 0 */
} twp__dtype;

typedef struct {
    const twp__dtype *dtype;
    int32_t rank;
    twp__expr dim[TW_MAX_RANK];
} twp__slot;

typedef struct {
    const char *name;
    int64_t least, most, multiple;
} twp__symbol;

typedef struct {
    const int64_t *sizes; /* by symbol of the entry point; TWP_UNKNOWN for those that the program does not have */
    const char *module, *executable;
    pjrt_loaded *loaded;
} twp__variant;

typedef struct {
    const char *host; /* NULL for a program */
    uint32_t host_entry;
    uint32_t input_count, output_count, padded_count, weight_count, variant_count;
    uint32_t *input, *output, *padded, *weight; /* slots, slots, symbols, weights */
    uint8_t is_padded[TWP_SYMBOLS];
    twp__variant *variant;
} twp__step;

typedef struct {
    twp__expr left, right;
    const char *text;
} twp__assert;

typedef struct {
    const char *name;
    uint32_t input_count, output_count, slot_count, step_count, assert_count, symbol_count;
    tw_signature *input, *output;
    twp__slot *slot;
    int64_t *result; /* a slot, or -1 minus a weight */
    twp__step *step;
    twp__assert *assertion;
    twp__symbol symbol[TWP_SYMBOLS];
} twp__entry;

typedef struct {
    const char *name;
    uint64_t offset, bytes;
    const twp__dtype *dtype;
    int32_t rank;
    int64_t dim[TW_MAX_RANK];
    pjrt_buffer *buffer;
    pjrt_event *done;
} twp__weight;

typedef union twp__block {
    union twp__block *next;
    long double align;
} twp__block;

struct tw_pjrt {
    tw_model *m;
    uint32_t target; /* node of the manifest */
    tw_weights weights;
    tw__span sums;
    pthread_t checker;
    int checking;
    int64_t bad; /* the first damaged segment */
    int32_t threads, allow_jit;
    char *cache;
    tw__json program;
    char *program_text, *plugin_mark;
    twp__block *blocks;
    const char *why; /* what is wrong with program.json */
    twp__entry *entry;
    uint32_t entry_count, weight_count;
    twp__weight *weight;
    void *library;
    const pjrt_api *api;
    pjrt_client *client;
    pjrt_device *device;
    pthread_mutex_t lock; /* of what is loaded, and of the report */
    tw_pjrt_report report;
};

static const twp__dtype twp__dtypes[] = {
    {"f32", 1, 32, PJRT_F32},          {"u8", 2, 8, PJRT_U8},          {"i8", 3, 8, PJRT_S8},
    {"u16", 4, 16, PJRT_U16},          {"i16", 5, 16, PJRT_S16},       {"i32", 6, 32, PJRT_S32},
    {"i64", 7, 64, PJRT_S64},          {"bool", 9, 8, PJRT_PRED},      {"f16", 10, 16, PJRT_F16},
    {"f64", 11, 64, PJRT_F64},         {"u32", 12, 32, PJRT_U32},      {"u64", 13, 64, PJRT_U64},
    {"bf16", 16, 16, PJRT_BF16},       {"f8e4m3", 17, 8, PJRT_F8E4M3FN}, {"f8e4m3fnuz", 18, 8, PJRT_F8E4M3FNUZ},
    {"f8e5m2", 19, 8, PJRT_F8E5M2},    {"f8e5m2fnuz", 20, 8, PJRT_F8E5M2FNUZ}, {"f8e8m0", 24, 8, PJRT_F8E8M0FNU},
    {"u4", 21, 4, 0},                  {"i4", 22, 4, 0},               {"f4e2m1", 23, 4, 0},
    {"u2", 25, 2, 0},                  {"i2", 26, 2, 0},
};

static double twp__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Zeroed memory that lives as long as the model; NULL when there is none. */
static void *twp__new(tw_pjrt *p, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
    twp__block *block = (twp__block *)calloc(1, sizeof *block + (size_t)bytes);
    if (block == NULL) return NULL;
    block->next = p->blocks;
    p->blocks = block;
    return block + 1;
}

/* Bytes of a dense tensor; 0 when a dimension is negative or the product does not fit. */
static int twp__bytes(const twp__dtype *dtype, const int64_t *dim, int32_t rank, int64_t *bytes) {
    int64_t bits = dtype->bits;
    for (int32_t i = 0; i < rank; i++)
        if (dim[i] < 0 || (dim[i] > 0 && __builtin_mul_overflow(bits, dim[i], &bits))) return 0;
    if (bits > INT64_MAX - 7) return 0;
    *bytes = (bits + 7) / 8;
    for (int32_t i = 0; i < rank; i++)
        if (dim[i] == 0) *bytes = 0;
    return 1;
}

/* -- expressions over symbols -------------------------------------------------------------------------------------- */

static int twp__apply(int32_t op, int64_t a, int64_t b, int64_t *result) {
    switch (op) {
    case TWP_ADD: return !__builtin_add_overflow(a, b, result);
    case TWP_MUL: return !__builtin_mul_overflow(a, b, result);
    case TWP_MIN: *result = a < b ? a : b; return 1;
    case TWP_MAX: *result = a > b ? a : b; return 1;
    default: break;
    }
    if (b == 0 || (a == INT64_MIN && b == -1)) return 0;
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) { /* round towards minus infinity, as Python does */
        quotient -= 1;
        rest += b;
    }
    *result = op == TWP_DIV ? quotient : rest;
    return 1;
}

/* 1 with the value, 0 when a symbol has no value yet, -1 on overflow or division by zero. */
static int twp__evaluate(twp__expr expr, const int64_t *symbols, int64_t *result) {
    int64_t stack[TWP_STACK];
    uint32_t depth = 0;
    for (uint32_t i = 0; i < expr.count; i++) {
        const twp__token *t = &expr.token[i];
        if (t->op == TWP_NUMBER) {
            stack[depth++] = t->value;
        } else if (t->op == TWP_SYMBOL) {
            if ((stack[depth++] = symbols[t->value]) == TWP_UNKNOWN) return 0;
        } else {
            depth--;
            if (!twp__apply(t->op, stack[depth - 1], stack[depth], &stack[depth - 1])) return -1;
        }
    }
    *result = stack[0];
    return 1;
}

/* The symbol that an expression is, alone or times 1; -1 for anything else. */
static int64_t twp__lone(twp__expr expr) {
    const twp__token *t = expr.token;
    if (expr.count == 1 && t[0].op == TWP_SYMBOL) return t[0].value;
    if (expr.count == 3 && t[0].op == TWP_NUMBER && t[0].value == 1 && t[1].op == TWP_SYMBOL && t[2].op == TWP_MUL) return t[1].value;
    return -1;
}

/* -- reading: every function returns 0 and says why when something is not what a compiler writes ---------------------- */

static int twp__bad(tw_pjrt *p, const char *why) {
    if (p->why == NULL) p->why = why;
    return 0;
}

static uint32_t twp__count(const tw__json *j, uint32_t list) {
    uint32_t n = 0;
    for (uint32_t i = j->nodes[list].child; i != 0; i = j->nodes[i].next) n++;
    return n;
}

static int twp__list(tw_pjrt *p, uint32_t parent, const char *key, uint32_t *list) {
    *list = tw__get(&p->program, parent, key);
    return p->program.nodes[*list].type == '[' ? 1 : twp__bad(p, key);
}

/* Text of a node, "" allowed; NULL when it is none. */
static const char *twp__string(tw_pjrt *p, uint32_t node) {
    if (node != 0 && p->program.nodes[node].type == 's') return p->program.nodes[node].text;
    twp__bad(p, "text is missing");
    return NULL;
}

static const twp__dtype *twp__find_dtype(const char *text) {
    for (size_t i = 0; i < sizeof twp__dtypes / sizeof *twp__dtypes; i++)
        if (strcmp(twp__dtypes[i].text, text) == 0) return &twp__dtypes[i];
    return NULL;
}

/* Index of a symbol, which is added when it is new; -1 when there are too many. */
static int64_t twp__symbol_of(twp__entry *e, const char *name) {
    for (uint32_t i = 0; i < e->symbol_count; i++)
        if (strcmp(e->symbol[i].name, name) == 0) return i;
    if (e->symbol_count == TWP_SYMBOLS) return -1;
    e->symbol[e->symbol_count] = (twp__symbol){name, 0, INT64_MAX, 1};
    return e->symbol_count++;
}

static int twp__read_expr(tw_pjrt *p, twp__entry *e, uint32_t node, twp__expr *expr) {
    static const char *const operators[] = {"+", "*", "//", "%", "min", "max"};
    const tw__json *j = &p->program;
    if (j->nodes[node].type != '[') return twp__bad(p, "a size is no expression");
    twp__token *token = (twp__token *)twp__new(p, twp__count(j, node), sizeof *token);
    uint32_t depth = 0;
    if (token == NULL) return twp__bad(p, "no memory");
    expr->token = token;
    expr->count = 0;
    for (uint32_t i = j->nodes[node].child; i != 0; i = j->nodes[i].next, token++, expr->count++) {
        if (j->nodes[i].type == 'i') {
            *token = (twp__token){TWP_NUMBER, j->nodes[i].number};
        } else if (j->nodes[i].type == 's' && j->nodes[i].text[0] == '$') {
            *token = (twp__token){TWP_SYMBOL, twp__symbol_of(e, j->nodes[i].text + 1)};
            if (token->value < 0) return twp__bad(p, "too many symbols");
        } else {
            token->op = 0;
            for (int k = 0; k < 6; k++)
                if (j->nodes[i].type == 's' && strcmp(j->nodes[i].text, operators[k]) == 0) token->op = TWP_ADD + k;
            if (token->op == 0 || depth < 2) return twp__bad(p, "a malformed expression");
            depth -= 2;
        }
        if (++depth > TWP_STACK) return twp__bad(p, "an expression is too deep");
    }
    return depth == 1 ? 1 : twp__bad(p, "a malformed expression");
}

static int twp__read_slot(tw_pjrt *p, twp__entry *e, uint32_t node, twp__slot *slot) {
    const char *dtype = twp__string(p, tw__get(&p->program, node, "dtype"));
    uint32_t shape;
    if (dtype == NULL || !twp__list(p, node, "shape", &shape)) return 0;
    if ((slot->dtype = twp__find_dtype(dtype)) == NULL) return twp__bad(p, "an unknown element type");
    for (uint32_t i = p->program.nodes[shape].child; i != 0; i = p->program.nodes[i].next) {
        if (slot->rank == TW_MAX_RANK) return twp__bad(p, "too many dimensions");
        if (!twp__read_expr(p, e, i, &slot->dim[slot->rank++])) return 0;
    }
    return 1;
}

/* Slots of a step; inputs have to be there already, outputs must be new. */
static int twp__read_slots(tw_pjrt *p, const twp__entry *e, uint32_t step, const char *key, uint8_t *there, uint32_t **slots, uint32_t *count) {
    uint32_t list, n = 0;
    int output = key[0] == 'o';
    if (!twp__list(p, step, key, &list)) return 0;
    *count = twp__count(&p->program, list);
    if ((*slots = (uint32_t *)twp__new(p, *count, sizeof **slots)) == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = p->program.nodes[list].child; i != 0; i = p->program.nodes[i].next) {
        int64_t slot = tw__number(&p->program, i);
        if (slot < 0 || slot >= e->slot_count || there[slot] == output) return twp__bad(p, "a step uses a slot wrongly");
        there[slot] = 1;
        (*slots)[n++] = (uint32_t)slot;
    }
    return 1;
}

static int64_t twp__find_weight(const tw_pjrt *p, const char *name) {
    uint32_t low = 0, high = p->weight_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(name, p->weight[middle].name);
        if (order == 0) return middle;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return -1;
}

static int twp__read_variant(tw_pjrt *p, twp__entry *e, uint32_t node, twp__variant *v, const twp__variant *first) {
    const tw__json *j = &p->program;
    uint32_t sizes = tw__get(j, node, "sizes");
    int64_t *size = (int64_t *)twp__new(p, TWP_SYMBOLS, sizeof *size);
    v->module = twp__string(p, tw__get(j, node, "module"));
    v->executable = twp__string(p, tw__get(j, node, "executable"));
    if (size == NULL || v->module == NULL || v->executable == NULL || j->nodes[sizes].type != '{') return twp__bad(p, "a variant is malformed");
    for (int i = 0; i < TWP_SYMBOLS; i++) size[i] = TWP_UNKNOWN;
    for (uint32_t key = j->nodes[sizes].child; key != 0; key = j->nodes[j->nodes[key].next].next) {
        int64_t symbol = twp__symbol_of(e, j->nodes[key].text), value = tw__number(j, j->nodes[key].next);
        if (symbol < 0 || value < 0 || value > INT32_MAX) return twp__bad(p, "a variant's size is malformed");
        size[symbol] = value;
    }
    v->sizes = size;
    for (int i = 0; i < TWP_SYMBOLS && first != NULL; i++)
        if ((first->sizes[i] == TWP_UNKNOWN) != (size[i] == TWP_UNKNOWN)) return twp__bad(p, "variants have different symbols");
    return 1;
}

static int twp__read_program(tw_pjrt *p, twp__entry *e, uint32_t node, twp__step *step) {
    const tw__json *j = &p->program;
    uint32_t padded, weights, variants;
    if (!twp__list(p, node, "padded", &padded) || !twp__list(p, node, "weights", &weights) || !twp__list(p, node, "variants", &variants)) return 0;
    step->padded = (uint32_t *)twp__new(p, twp__count(j, padded), sizeof *step->padded);
    step->weight = (uint32_t *)twp__new(p, twp__count(j, weights), sizeof *step->weight);
    step->variant = (twp__variant *)twp__new(p, twp__count(j, variants), sizeof *step->variant);
    if (step->padded == NULL || step->weight == NULL || step->variant == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = j->nodes[variants].child; i != 0; i = j->nodes[i].next, step->variant_count++)
        if (!twp__read_variant(p, e, i, &step->variant[step->variant_count], step->variant_count ? step->variant : NULL)) return 0;
    if (step->variant_count == 0) return twp__bad(p, "a step without variants");
    for (uint32_t i = j->nodes[padded].child; i != 0; i = j->nodes[i].next) {
        const char *name = twp__string(p, i);
        int64_t symbol = name != NULL ? twp__symbol_of(e, name) : -1;
        if (symbol < 0 || step->is_padded[symbol] || step->variant->sizes[symbol] == TWP_UNKNOWN) return twp__bad(p, "a padded symbol without sizes");
        step->is_padded[symbol] = 1;
        step->padded[step->padded_count++] = (uint32_t)symbol;
    }
    for (uint32_t i = j->nodes[weights].child; i != 0; i = j->nodes[i].next) {
        const char *name = twp__string(p, i);
        int64_t weight = name != NULL ? twp__find_weight(p, name) : -1;
        if (weight < 0) return twp__bad(p, "a weight that the artifact lacks");
        step->weight[step->weight_count++] = (uint32_t)weight;
    }
    return 1;
}

static int twp__read_step(tw_pjrt *p, twp__entry *e, uint32_t node, uint8_t *there, twp__step *step) {
    uint32_t host = tw__get(&p->program, node, "host");
    if (!twp__read_slots(p, e, node, "inputs", there, &step->input, &step->input_count)) return 0;
    if (!twp__read_slots(p, e, node, "outputs", there, &step->output, &step->output_count)) return 0;
    if (host == 0) return twp__read_program(p, e, node, step);
    return (step->host = twp__string(p, host)) != NULL;
}

/* "[N, 3]" of a manifest's shape, which is kept as text for people only. */
static const char *twp__shape_text(tw_pjrt *p, const tw__json *j, uint32_t shape) {
    size_t bytes = 3;
    for (uint32_t i = j->nodes[shape].child; i != 0; i = j->nodes[i].next) bytes += strlen(tw__text(j, i)) + 24;
    char *text = (char *)twp__new(p, bytes, 1);
    if (text == NULL) return NULL;
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (uint32_t i = j->nodes[shape].child; i != 0; i = j->nodes[i].next) {
        const char *comma = j->nodes[i].next != 0 ? ", " : "";
        if (j->nodes[i].type == 'i') used += (size_t)snprintf(text + used, bytes - used, "%lld%s", (long long)j->nodes[i].number, comma);
        else used += (size_t)snprintf(text + used, bytes - used, "%s%s", tw__text(j, i), comma);
    }
    snprintf(text + used, bytes - used, "]");
    return text;
}

/* The inputs or outputs of an entry point, from the manifest. */
static int twp__read_signatures(tw_pjrt *p, uint32_t list, tw_signature **signatures, uint32_t *count) {
    const tw__json *j = &p->m->json;
    *count = twp__count(j, list);
    tw_signature *s = *signatures = (tw_signature *)twp__new(p, *count, sizeof *s);
    if (s == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = j->nodes[list].child; i != 0; i = j->nodes[i].next, s++) {
        uint32_t shape = tw__get(j, i, "shape"), rank = twp__count(j, shape);
        const twp__dtype *dtype = twp__find_dtype(tw__text(j, tw__get(j, i, "dtype")));
        s->name = tw__text(j, tw__get(j, i, "name"));
        s->shape = twp__shape_text(p, j, shape);
        if (dtype == NULL || j->nodes[shape].type != '[' || rank > TW_MAX_RANK || s->shape == NULL) return twp__bad(p, "a malformed signature");
        s->dtype = dtype->dtype;
        s->rank = (int32_t)rank;
    }
    return 1;
}

static int twp__read_symbols(tw_pjrt *p, twp__entry *e, uint32_t list) {
    const tw__json *j = &p->m->json;
    for (uint32_t i = j->nodes[list].child; i != 0; i = j->nodes[i].next) {
        const char *name = tw__text(j, tw__get(j, i, "name"));
        int64_t symbol = twp__symbol_of(e, name), least = tw__number(j, tw__get(j, i, "min"));
        int64_t most = tw__number(j, tw__get(j, i, "max")), multiple = tw__number(j, tw__get(j, i, "multiple"));
        if (*name == 0 || symbol < 0 || least < 0 || most < 0) return twp__bad(p, "a malformed symbol");
        e->symbol[symbol] = (twp__symbol){name, least, most, multiple > 0 ? multiple : 1};
    }
    return 1;
}

static int twp__read_results(tw_pjrt *p, twp__entry *e, uint32_t list, const uint8_t *there) {
    const tw__json *j = &p->program;
    uint32_t n = 0;
    if (twp__count(j, list) != e->output_count) return twp__bad(p, "another number of results than outputs");
    if ((e->result = (int64_t *)twp__new(p, e->output_count, sizeof *e->result)) == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = j->nodes[list].child; i != 0; i = j->nodes[i].next, n++) {
        const tw_signature *s = &e->output[n];
        if (j->nodes[i].type == 's') {
            int64_t weight = twp__find_weight(p, j->nodes[i].text);
            if (weight < 0 || p->weight[weight].dtype->dtype != s->dtype || p->weight[weight].rank != s->rank)
                return twp__bad(p, "a result is no constant");
            e->result[n] = -1 - weight;
            continue;
        }
        int64_t slot = tw__number(j, i);
        if (slot < 0 || slot >= e->slot_count || !there[slot]) return twp__bad(p, "a result is no slot");
        if (e->slot[slot].dtype->dtype != s->dtype || e->slot[slot].rank != s->rank) return twp__bad(p, "a result of another type than its output");
        e->result[n] = slot;
    }
    return 1;
}

static int twp__read_steps(tw_pjrt *p, twp__entry *e, uint32_t slots, uint32_t steps, uint32_t results) {
    const tw__json *j = &p->program;
    uint32_t n = 0;
    uint8_t *there = (uint8_t *)twp__new(p, twp__count(j, slots), 1);
    e->slot = (twp__slot *)twp__new(p, twp__count(j, slots), sizeof *e->slot);
    e->step = (twp__step *)twp__new(p, twp__count(j, steps), sizeof *e->step);
    if (e->slot == NULL || e->step == NULL || there == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = j->nodes[slots].child; i != 0; i = j->nodes[i].next)
        if (!twp__read_slot(p, e, i, &e->slot[e->slot_count++])) return 0;
    if (e->slot_count < e->input_count) return twp__bad(p, "fewer slots than inputs");
    for (n = 0; n < e->input_count; n++) {
        if (e->slot[n].dtype->dtype != e->input[n].dtype || e->slot[n].rank != e->input[n].rank)
            return twp__bad(p, "a slot of another type than its input");
        there[n] = 1;
    }
    for (uint32_t i = j->nodes[steps].child; i != 0; i = j->nodes[i].next)
        if (!twp__read_step(p, e, i, there, &e->step[e->step_count++])) return 0;
    return twp__read_results(p, e, results, there);
}

/* An entry point of program.json with its signature in the manifest. */
static int twp__read_entry(tw_pjrt *p, uint32_t node, uint32_t signature, twp__entry *e) {
    const tw__json *j = &p->program, *manifest = &p->m->json;
    uint32_t slots, steps, results, asserts;
    const char *name = twp__string(p, tw__get(j, node, "name"));
    if (name == NULL || strcmp(name, tw__text(manifest, tw__get(manifest, signature, "name"))) != 0)
        return twp__bad(p, "entry points unlike the manifest's");
    e->name = name;
    if (!twp__read_signatures(p, tw__get(manifest, signature, "inputs"), &e->input, &e->input_count)) return 0;
    if (!twp__read_signatures(p, tw__get(manifest, signature, "outputs"), &e->output, &e->output_count)) return 0;
    if (!twp__read_symbols(p, e, tw__get(manifest, signature, "symbols"))) return 0;
    if (!twp__list(p, node, "slots", &slots) || !twp__list(p, node, "steps", &steps)) return 0;
    if (!twp__list(p, node, "results", &results) || !twp__list(p, node, "asserts", &asserts)) return 0;
    if (!twp__read_steps(p, e, slots, steps, results)) return 0;
    e->assertion = (twp__assert *)twp__new(p, twp__count(j, asserts), sizeof *e->assertion);
    if (e->assertion == NULL) return twp__bad(p, "no memory");
    for (uint32_t i = j->nodes[asserts].child; i != 0; i = j->nodes[i].next) {
        twp__assert *a = &e->assertion[e->assert_count++];
        if (j->nodes[i].type != '[' || twp__count(j, i) != 3) return twp__bad(p, "a malformed assertion");
        uint32_t left = j->nodes[i].child, right = j->nodes[left].next;
        if (!twp__read_expr(p, e, left, &a->left) || !twp__read_expr(p, e, right, &a->right)) return 0;
        if ((a->text = twp__string(p, j->nodes[right].next)) == NULL) return 0;
    }
    return 1;
}

static int twp__read_entries(tw_pjrt *p) {
    const tw__json *j = &p->program, *manifest = &p->m->json;
    uint32_t entries, mesh, listed = tw__get(manifest, 1, "entries");
    if (tw__number(j, tw__get(j, 1, "version")) != 1) return twp__bad(p, "it has another version than this loader");
    if (!twp__list(p, 1, "entries", &entries) || !twp__list(p, 1, "mesh", &mesh)) return 0;
    uint32_t count = twp__count(j, entries);
    if (count == 0 || manifest->nodes[listed].type != '[' || twp__count(manifest, listed) != count)
        return twp__bad(p, "entry points unlike the manifest's");
    if ((p->entry = (twp__entry *)twp__new(p, count, sizeof *p->entry)) == NULL) return twp__bad(p, "no memory");
    uint32_t signature = manifest->nodes[listed].child;
    for (uint32_t i = j->nodes[entries].child; i != 0; i = j->nodes[i].next, signature = manifest->nodes[signature].next)
        if (!twp__read_entry(p, i, signature, &p->entry[p->entry_count++])) return 0;
    return 1;
}

/* Reads program.json (`bytes` of `text`, which is copied). */
static int32_t twp__parse(tw_pjrt *p, const void *text, uint64_t bytes, tw_error *error) {
    p->program_text = (char *)malloc((size_t)bytes + 1);
    if (p->program_text == NULL) return tw__fail(error, TW_RESOURCE, "no memory for program.json");
    memcpy(p->program_text, text, (size_t)bytes);
    p->program.at = p->program_text;
    p->program.end = p->program_text + bytes;
    uint32_t root = tw__value(&p->program, 0);
    tw__skip_space(&p->program);
    if (root != 1 || p->program.at != p->program.end) return tw__fail(error, TW_ARTIFACT, "program.json is malformed");
    if (twp__read_entries(p)) return TW_OK;
    return tw__fail(error, TW_ARTIFACT, "program.json is malformed: %s", p->why);
}

/* The manifest's weights: [name, offset, bytes, type, shape], in ascending order of name. */
static int32_t twp__read_weights(tw_pjrt *p, tw_error *error) {
    const tw__json *j = &p->m->json;
    uint32_t list = tw__get(j, tw__get(j, 1, "weights"), "tensors");
    p->weight = (twp__weight *)twp__new(p, twp__count(j, list), sizeof *p->weight);
    if (p->weight == NULL) return tw__fail(error, TW_RESOURCE, "no memory for the list of weights");
    for (uint32_t i = j->nodes[list].child; i != 0; i = j->nodes[i].next) {
        twp__weight *w = &p->weight[p->weight_count];
        uint32_t cell[5] = {j->nodes[i].child, 0, 0, 0, 0};
        for (int k = 1; k < 5; k++) cell[k] = j->nodes[cell[k - 1]].next;
        int64_t offset = tw__number(j, cell[1]), bytes = tw__number(j, cell[2]), expected;
        w->name = tw__text(j, cell[0]);
        w->dtype = twp__find_dtype(tw__text(j, cell[3]));
        int wrong = offset < 0 || bytes < 0 || (uint64_t)offset > p->weights.bytes || (uint64_t)bytes > p->weights.bytes - (uint64_t)offset ||
                    w->dtype == NULL || j->nodes[cell[4]].type != '[' || offset % TW_ALIGNMENT != 0;
        for (uint32_t d = j->nodes[cell[4]].child; d != 0 && !wrong; d = j->nodes[d].next) {
            wrong = w->rank == TW_MAX_RANK || tw__number(j, d) < 0;
            if (!wrong) w->dim[w->rank++] = tw__number(j, d);
        }
        if (wrong || !twp__bytes(w->dtype, w->dim, w->rank, &expected) || expected != bytes)
            return tw__fail(error, TW_ARTIFACT, "the manifest's weights are malformed");
        w->offset = (uint64_t)offset;
        w->bytes = (uint64_t)bytes;
        if (p->weight_count > 0 && strcmp(w[-1].name, w->name) >= 0) return tw__fail(error, TW_ARTIFACT, "the manifest's weights are out of order");
        p->weight_count++;
    }
    return TW_OK;
}

/* -- the plugin ---------------------------------------------------------------------------------------------------- */

/* A function of the plugin's table, or NULL when it is older than that function. */
static pjrt_function twp__function(const tw_pjrt *p, int index) {
    size_t end = offsetof(pjrt_api, function) + ((size_t)index + 1) * sizeof(pjrt_entry);
    return p->api != NULL && p->api->size >= end ? p->api->function[index].call : NULL;
}

/* Fills `error` with what the plugin says, and frees that. */
static int32_t twp__plugin_error(const tw_pjrt *p, pjrt_error *problem, const char *what, tw_error *error) {
    pjrt_list_args text = {sizeof text, NULL, problem, NULL, 0};
    pjrt_number_args number = {offsetof(pjrt_number_args, number) + sizeof number.number, NULL, problem, 0};
    pjrt_object_args gone = {sizeof gone, NULL, problem};
    p->api->function[PJRT_ERROR_MESSAGE].tell(&text);
    pjrt_error *nested = twp__function(p, PJRT_ERROR_CODE)(&number);
    int32_t code = number.number == 8 /* resource exhausted */ ? TW_RESOURCE : TW_DEVICE;
    tw__fail(error, code, "%s: the plugin says: %.*s", what, (int)(text.count < 800 ? text.count : 800),
             text.data != NULL ? (const char *)text.data : "");
    p->api->function[PJRT_ERROR_DESTROY].tell(&gone);
    if (nested != NULL) {
        gone.object = nested;
        p->api->function[PJRT_ERROR_DESTROY].tell(&gone);
    }
    return code;
}

static int32_t twp__call(const tw_pjrt *p, int index, void *arguments, const char *what, tw_error *error) {
    pjrt_function function = twp__function(p, index);
    if (function == NULL) return tw__fail(error, TW_DEVICE, "%s: the plugin is too old: it lacks function %d of PJRT", what, index);
    pjrt_error *problem = function(arguments);
    return problem == NULL ? TW_OK : twp__plugin_error(p, problem, what, error);
}

/* For what is given back: an error there has nobody to go to. */
static void twp__drop(const tw_pjrt *p, int index, void *object) {
    pjrt_object_args args = {sizeof args, NULL, object};
    if (object != NULL) twp__call(p, index, &args, "", NULL);
}

/* Waits for an event and frees it. */
static int32_t twp__await(const tw_pjrt *p, pjrt_event *event, const char *what, tw_error *error) {
    pjrt_object_args args = {sizeof args, NULL, event};
    if (event == NULL) return TW_OK;
    int32_t code = twp__call(p, PJRT_EVENT_AWAIT, &args, what, error);
    twp__drop(p, PJRT_EVENT_DESTROY, event);
    return code;
}

/* A text that the plugin has of an object. */
static int32_t twp__plugin_text(const tw_pjrt *p, int index, const void *object, char *text, size_t capacity, tw_error *error) {
    pjrt_list_args args = {sizeof args, NULL, object, NULL, 0};
    int32_t code = twp__call(p, index, &args, "asking the plugin what it is", error);
    if (code == TW_OK)
        snprintf(text, capacity, "%.*s", (int)(args.count < capacity ? args.count : capacity - 1), args.data != NULL ? (const char *)args.data : "");
    return code;
}

/* Whether a plugin for TPUs would look for one in vain, which takes it minutes: no device of vendor 1ae0 (Google) and no
 * file of a driver. 0 where the system does not tell. */
static int twp__no_tpu(const char *path) {
    const char *slash = strrchr(path, '/');
    if (strncmp(slash != NULL ? slash + 1 : path, "libtpu", 6) != 0 || access("/dev/accel0", F_OK) == 0 || access("/dev/vfio", F_OK) == 0) return 0;
    DIR *devices = opendir("/sys/bus/pci/devices");
    int found = devices == NULL;
    for (struct dirent *d; !found && (d = readdir(devices)) != NULL;) {
        char name[512], vendor[16] = "";
        snprintf(name, sizeof name, "/sys/bus/pci/devices/%s/vendor", d->d_name);
        FILE *file = fopen(name, "r");
        found = file != NULL && fgets(vendor, sizeof vendor, file) != NULL && strncmp(vendor, "0x1ae0", 6) == 0;
        if (file != NULL) fclose(file);
    }
    if (devices != NULL) closedir(devices);
    return !found;
}

static int32_t twp__load_plugin(tw_pjrt *p, const char *path, tw_error *error) {
    struct stat status;
    if (path == NULL || *path == 0) return tw__fail(error, TW_USAGE, "name a PJRT plugin: on a TPU machine libtpu.so, of the package libtpu");
    if (strchr(path, '/') != NULL && stat(path, &status) != 0)
        return tw__fail(error, TW_DEVICE, "there is no PJRT plugin %s (%s); on a TPU machine it is libtpu.so, of the package libtpu",
                        path, strerror(errno));
    if (twp__no_tpu(path))
        return tw__fail(error, TW_DEVICE,
                        "there is no TPU on this machine: no PCI device of vendor 1ae0, no /dev/accel0 and no /dev/vfio; run this on a TPU machine");
    if ((p->library = dlopen(path, RTLD_NOW | RTLD_LOCAL)) == NULL) {
        const char *why = dlerror();
        return tw__fail(error, TW_DEVICE, "the PJRT plugin cannot be loaded: %s", why != NULL ? why : path);
    }
    union { /* ISO C has no conversion from dlsym's result */
        void *object;
        const pjrt_api *(*function)(void);
    } get;
    get.object = dlsym(p->library, "GetPjrtApi");
    if (get.object == NULL || (p->api = get.function()) == NULL)
        return tw__fail(error, TW_DEVICE, "%s is no PJRT plugin: it has no GetPjrtApi", path);
    if (p->api->size < offsetof(pjrt_api, function) || p->api->version.major != PJRT_MAJOR || twp__function(p, PJRT_BUFFER_TO_HOST) == NULL) {
        int major = (int)p->api->version.major, minor = (int)p->api->version.minor;
        p->api = NULL;
        return tw__fail(error, TW_DEVICE, "%s has version %d.%d of PJRT's interface, this program needs %d.x with all of what it calls",
                        path, major, minor, PJRT_MAJOR);
    }
    /* Some plugins say no version: their file stands for it. */
    char mark[160] = "";
    if (strchr(path, '/') != NULL)
        snprintf(mark, sizeof mark, "%lld bytes of %lld.%ld", (long long)status.st_size, (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
    p->plugin_mark = (char *)twp__new(p, sizeof mark, 1);
    if (p->plugin_mark == NULL) return tw__fail(error, TW_RESOURCE, "no memory");
    memcpy(p->plugin_mark, mark, sizeof mark);
    pjrt_initialize_args initialize = {sizeof initialize, NULL};
    return twp__call(p, PJRT_PLUGIN_INITIALIZE, &initialize, "starting the plugin", error);
}

static int32_t twp__start_client(tw_pjrt *p, tw_error *error) {
    pjrt_create_args create;
    memset(&create, 0, sizeof create);
    create.size = sizeof create;
    int32_t code = twp__call(p, PJRT_CLIENT_CREATE, &create, "there is no device that the plugin can use", error);
    if (code != TW_OK) return code;
    p->client = create.client;
    code = twp__plugin_text(p, PJRT_CLIENT_PLATFORM_NAME, p->client, p->report.platform, sizeof p->report.platform, error);
    if (code == TW_OK) code = twp__plugin_text(p, PJRT_CLIENT_PLATFORM_VERSION, p->client, p->report.version, sizeof p->report.version, error);
    pjrt_list_args devices = {sizeof devices, NULL, p->client, NULL, 0};
    if (code == TW_OK) code = twp__call(p, PJRT_CLIENT_ADDRESSABLE_DEVICES, &devices, "asking for devices", error);
    if (code != TW_OK) return code;
    if (devices.count == 0) return tw__fail(error, TW_DEVICE, "the plugin has no device on this machine");
    p->device = ((pjrt_device *const *)devices.data)[0];
    pjrt_result_args description = {sizeof description, NULL, p->device, NULL};
    code = twp__call(p, PJRT_DEVICE_DESCRIPTION, &description, "asking what the device is", error);
    return code != TW_OK ? code : twp__plugin_text(p, PJRT_DESCRIPTION_KIND, description.result, p->report.device, sizeof p->report.device, error);
}

/* -- a kept executable: its file's first line, then what the plugin wrote ------------------------------------------- */

#define TWP_HEAD "tilewright-pjrt 1 "
#define TWP_HEAD_BYTES (sizeof TWP_HEAD - 1 + 64 + 1)

/* A CompileOptionsProto of XLA: field 3 (executable_build_options), 15 bytes: field 1 (device_ordinal) = -1, that is none;
 * field 4 (num_replicas) = 1; field 5 (num_partitions) = 1. All else is the plugin's default. */
static const char twp__options[] = "\x1a\x0f\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x01\x28\x01";

static int twp__note(tw_pjrt *p, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->report.note, sizeof p->report.note, format, arguments);
    va_end(arguments);
    return 0;
}

/* What this processor can, as the system lists it: a CPU plugin's code is for that. */
static void twp__processor(char *text, size_t capacity) {
    char line[8192];
    FILE *file = fopen("/proc/cpuinfo", "r");
    text[0] = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0) {
            snprintf(text, capacity, "%s", line);
            break;
        }
    if (file != NULL) fclose(file);
}

/* The file of a module's executable, by everything that it depends on; 0 when there is no folder. */
static int twp__cache_path(const tw_pjrt *p, tw__span module, char *path, size_t capacity) {
    char digest[65], processor[8192], text[10240];
    if (p->cache == NULL) return 0;
    tw__sha256(module.data, module.bytes, digest);
    twp__processor(processor, sizeof processor);
    int used = snprintf(text, sizeof text, "%s\n%s\n%s\n%s\n%d.%d\n%s\n%s\n", digest, p->report.platform, p->report.version, p->report.device,
                        (int)p->api->version.major, (int)p->api->version.minor, p->plugin_mark, processor);
    if (used < 0 || (size_t)used + sizeof twp__options > sizeof text) return 0;
    memcpy(text + used, twp__options, sizeof twp__options);
    tw__sha256((const unsigned char *)text, (uint64_t)used + sizeof twp__options, digest);
    used = snprintf(path, capacity, "%s/%s", p->cache, digest);
    return used > 0 && (size_t)used < capacity;
}

/* The folder, made when it is not there; only this user may write to it, or it is not used. 0 for none. */
static int twp__open_cache(tw_pjrt *p, const char *asked) {
    char path[3072];
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    struct stat status;
    if (asked != NULL && *asked == 0) return 0;
    if (asked != NULL) snprintf(path, sizeof path, "%s", asked);
    else if (base != NULL && *base == '/') snprintf(path, sizeof path, "%s/tilewright/pjrt", base);
    else if (home != NULL && *home == '/') snprintf(path, sizeof path, "%s/.cache/tilewright/pjrt", home);
    else return twp__note(p, "nothing is kept: neither HOME nor XDG_CACHE_HOME names a folder");
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) return twp__note(p, "nothing is kept: there is no folder %s", path);
    if (status.st_uid != geteuid() || (status.st_mode & 022) != 0) return twp__note(p, "nothing is kept: others may write to %s", path);
    if ((p->cache = (char *)twp__new(p, strlen(path) + 1, 1)) == NULL) return twp__note(p, "nothing is kept: no memory");
    memcpy(p->cache, path, strlen(path) + 1);
    return 1;
}

/* The whole contents of a kept executable (to be freed, `*executable` in it), or NULL with a note where one is damaged. */
static char *twp__read_kept(tw_pjrt *p, const char *path, tw__span *executable) {
    struct stat status;
    char digest[65], *data = NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    uint64_t bytes = 0, done = 0;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() && status.st_size > (off_t)TWP_HEAD_BYTES) {
        bytes = (uint64_t)status.st_size;
        data = (char *)malloc((size_t)bytes);
    }
    while (data != NULL && done < bytes) {
        ssize_t n = read(file, data + done, (size_t)(bytes - done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (uint64_t)n;
    }
    close(file);
    if (data != NULL && done == bytes && memcmp(data, TWP_HEAD, sizeof TWP_HEAD - 1) == 0) {
        *executable = (tw__span){(const unsigned char *)data + TWP_HEAD_BYTES, bytes - TWP_HEAD_BYTES};
        tw__sha256(executable->data, executable->bytes, digest);
        if (memcmp(data + sizeof TWP_HEAD - 1, digest, 64) == 0) return data;
    }
    twp__note(p, "the kept executable %s is damaged and was passed over", path);
    free(data);
    return NULL;
}

static void twp__keep(tw_pjrt *p, const char *path, const char *bytes, size_t count) {
    char temporary[4096], head[TWP_HEAD_BYTES + 1], digest[65];
    int used = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    int file = used > 0 && (size_t)used < sizeof temporary ? mkstemp(temporary) : -1;
    tw__sha256((const unsigned char *)bytes, count, digest);
    snprintf(head, sizeof head, "%s%s\n", TWP_HEAD, digest);
    tw__span parts[2] = {{(const unsigned char *)head, TWP_HEAD_BYTES}, {(const unsigned char *)bytes, count}};
    int whole = file >= 0;
    for (int i = 0; i < 2 && whole; i++)
        for (uint64_t done = 0; done < parts[i].bytes && whole;) {
            ssize_t n = write(file, parts[i].data + done, (size_t)(parts[i].bytes - done));
            if (n < 0 && errno == EINTR) continue;
            whole = n > 0;
            done += whole ? (uint64_t)n : 0;
        }
    if (file >= 0 && close(file) != 0) whole = 0;
    if (whole && rename(temporary, path) == 0) return;
    twp__note(p, "the executable could not be kept in %s (%s)", path, strerror(errno));
    if (file >= 0) unlink(temporary);
}

/* -- executables --------------------------------------------------------------------------------------------------- */

static int32_t twp__deserialize(tw_pjrt *p, tw__span bytes, pjrt_loaded **loaded, tw_error *error) {
    pjrt_deserialize_args args;
    memset(&args, 0, sizeof args);
    args.size = sizeof args;
    args.client = p->client;
    args.bytes = (const char *)bytes.data;
    args.byte_count = (size_t)bytes.bytes;
    int32_t code = twp__call(p, PJRT_DESERIALIZE, &args, "loading an executable", error);
    *loaded = code == TW_OK ? args.loaded : NULL;
    return code;
}

/* A member of the model's part by its name there. */
static int32_t twp__member(const tw_pjrt *p, const char *name, tw__span *span, tw_error *error) {
    const tw__json *j = &p->m->json;
    uint32_t listed = tw__get(j, tw__get(j, p->target, "members"), name);
    if (listed == 0) return tw__fail(error, TW_ARTIFACT, "member '%s' of %s is missing", name, p->m->target);
    return tw__checked(p->m, tw__text(j, listed), span, error);
}

static int32_t twp__executable_of(const tw_pjrt *p, pjrt_loaded *loaded, pjrt_executable **executable, tw_error *error) {
    pjrt_result_args args = {sizeof args, NULL, loaded, NULL};
    int32_t code = twp__call(p, PJRT_LOADED_EXECUTABLE, &args, "asking for an executable", error);
    *executable = code == TW_OK ? (pjrt_executable *)args.result : NULL;
    return code;
}

static int32_t twp__compile(tw_pjrt *p, tw__span module, const char *path, pjrt_loaded **loaded, tw_error *error) {
    pjrt_program program = {sizeof program, NULL, (const char *)module.data, (size_t)module.bytes, "mlir", 4};
    pjrt_compile_args args = {sizeof args, NULL, p->client, &program, twp__options, sizeof twp__options - 1, NULL};
    pjrt_executable *executable;
    tw_error ignored;
    double start = twp__now();
    int32_t code = twp__call(p, PJRT_CLIENT_COMPILE, &args, "compiling a program", error);
    p->report.compile += twp__now() - start;
    if (code != TW_OK) return code;
    *loaded = args.loaded;
    p->report.compiled++;
    if (path == NULL || twp__executable_of(p, args.loaded, &executable, &ignored) != TW_OK) return TW_OK;
    pjrt_serialize_args bytes;
    memset(&bytes, 0, sizeof bytes);
    bytes.size = sizeof bytes;
    bytes.executable = executable;
    if (twp__call(p, PJRT_EXECUTABLE_SERIALIZE, &bytes, "keeping an executable", &ignored) == TW_OK) {
        twp__keep(p, path, bytes.bytes, bytes.byte_count);
        if (bytes.free != NULL) bytes.free(bytes.owner);
    } else {
        twp__note(p, "%s", ignored.text);
    }
    twp__drop(p, PJRT_EXECUTABLE_DESTROY, executable);
    return TW_OK;
}

/* The executable of a variant: the artifact's, a kept one, or one compiled now. */
static int32_t twp__find_executable(tw_pjrt *p, const twp__variant *v, int32_t compile, pjrt_loaded **loaded, tw_error *error) {
    char path[4096], *kept;
    tw__span bytes;
    tw_error problem;
    int32_t code;
    if (*v->executable != 0) {
        if ((code = twp__member(p, v->executable, &bytes, error)) != TW_OK) return code;
        if (twp__deserialize(p, bytes, loaded, &problem) == TW_OK) return p->report.ahead++, TW_OK;
        twp__note(p, "%.120s: %.370s", v->executable, problem.text);
    }
    if ((code = twp__member(p, v->module, &bytes, error)) != TW_OK) return code;
    int keeps = twp__cache_path(p, bytes, path, sizeof path);
    tw__span executable;
    if (keeps && (kept = twp__read_kept(p, path, &executable)) != NULL) {
        code = twp__deserialize(p, executable, loaded, &problem);
        free(kept);
        if (code == TW_OK) return p->report.cached++, TW_OK;
        twp__note(p, "%.120s: %.370s", path, problem.text);
    }
    if (compile) return twp__compile(p, bytes, keeps ? path : NULL, loaded, error);
    return tw__fail(error, TW_DEVICE, "no executable of %s for %s (%s) is there, and compiling was not allowed%s%s", v->module, p->report.device,
                    p->report.platform, *p->report.note != 0 ? "; " : "", p->report.note);
}

/* Loads a variant once. The caller has the lock. */
static int32_t twp__load_variant(tw_pjrt *p, const twp__step *step, twp__variant *v, int32_t compile, tw_error *error) {
    pjrt_loaded *loaded = NULL;
    pjrt_executable *executable;
    if (v->loaded != NULL) return TW_OK;
    double start = twp__now(), compiling = p->report.compile;
    int32_t code = twp__find_executable(p, v, compile, &loaded, error);
    if (code != TW_OK) return code;
    if ((code = twp__executable_of(p, loaded, &executable, error)) == TW_OK) {
        pjrt_result_args outputs = {sizeof outputs, NULL, executable, NULL};
        code = twp__call(p, PJRT_EXECUTABLE_OUTPUT_COUNT, &outputs, "asking for the number of outputs", error);
        twp__drop(p, PJRT_EXECUTABLE_DESTROY, executable);
        if (code == TW_OK && (size_t)outputs.result != step->output_count)
            code = tw__fail(error, TW_ARTIFACT, "%s has %llu outputs, program.json says %u", v->module,
                            (unsigned long long)(size_t)outputs.result, step->output_count);
    }
    p->report.load += twp__now() - start - (p->report.compile - compiling);
    if (code == TW_OK) v->loaded = loaded;
    else twp__drop(p, PJRT_LOADED_DESTROY, loaded);
    return code;
}

/* -- buffers ------------------------------------------------------------------------------------------------------- */

/* A buffer of row-major memory that stays as it is until the buffer is gone and `done` was waited for. */
static int32_t twp__upload(const tw_pjrt *p, const void *data, int32_t type, const int64_t *dim, int32_t rank, pjrt_buffer **buffer,
                           pjrt_event **done, tw_error *error) {
    static const char nothing[TW_ALIGNMENT] = {0};
    pjrt_from_host_args args;
    memset(&args, 0, sizeof args);
    args.size = sizeof args;
    args.client = p->client;
    args.data = data != NULL ? data : nothing;
    args.type = type;
    args.dims = dim;
    args.rank = (size_t)rank;
    args.semantics = PJRT_IMMUTABLE_ZERO_COPY;
    args.device = p->device;
    int32_t code = twp__call(p, PJRT_CLIENT_BUFFER_FROM_HOST, &args, "bringing a tensor to the device", error);
    if (code != TW_OK) return code;
    *buffer = args.buffer;
    *done = args.done;
    return TW_OK;
}

/* Frees a buffer, and waits until its host memory is free as well. */
static void twp__release(const tw_pjrt *p, pjrt_buffer **buffer, pjrt_event **done) {
    twp__drop(p, PJRT_BUFFER_DESTROY, *buffer);
    twp__await(p, *done, "", NULL);
    *buffer = NULL;
    *done = NULL;
}

/* A program's result has to be of the type and sizes that program.json says. */
static int32_t twp__check_result(const tw_pjrt *p, pjrt_buffer *buffer, const twp__dtype *dtype, const int64_t *dim, int32_t rank, tw_error *error) {
    pjrt_number_args type = {offsetof(pjrt_number_args, number) + sizeof type.number, NULL, buffer, 0};
    pjrt_list_args dims = {sizeof dims, NULL, buffer, NULL, 0};
    int32_t code = twp__call(p, PJRT_BUFFER_TYPE, &type, "asking for a type", error);
    if (code == TW_OK) code = twp__call(p, PJRT_BUFFER_DIMENSIONS, &dims, "asking for dimensions", error);
    if (code != TW_OK) return code;
    if (type.number == dtype->type && dims.count == (size_t)rank && (rank == 0 || memcmp(dims.data, dim, (size_t)rank * sizeof *dim) == 0))
        return TW_OK;
    return tw__fail(error, TW_ARTIFACT, "a program gives another type or shape than program.json says");
}

/* The buffer's elements in row-major order. */
static int32_t twp__download(const tw_pjrt *p, pjrt_buffer *buffer, int32_t rank, void *data, int64_t bytes, tw_error *error) {
    int64_t order[TW_MAX_RANK];
    for (int32_t i = 0; i < rank; i++) order[i] = rank - 1 - i;
    pjrt_layout layout;
    memset(&layout, 0, sizeof layout);
    layout.size = offsetof(pjrt_layout, type) + sizeof layout.type;
    layout.tiled.size = sizeof layout.tiled;
    layout.tiled.minor_to_major = order;
    layout.tiled.rank = (size_t)rank;
    layout.type = PJRT_LAYOUT_TILED;
    pjrt_to_host_args args = {sizeof args, NULL, buffer, &layout, data, (size_t)bytes, NULL};
    int32_t code = twp__call(p, PJRT_BUFFER_TO_HOST, &args, "bringing a tensor from the device", error);
    return code != TW_OK ? code : twp__await(p, args.event, "bringing a tensor from the device", error);
}

/* A weight on the device, once. Types of less than 8 bits are bytes there. The caller has the lock. */
static int32_t twp__place_weight(tw_pjrt *p, twp__weight *w, tw_error *error) {
    int64_t bytes = (int64_t)w->bytes;
    if (w->buffer != NULL) return TW_OK;
    const void *data = (const char *)p->weights.data + w->offset;
    int packed = w->dtype->bits < 8;
    int32_t code = twp__upload(p, data, packed ? PJRT_U8 : w->dtype->type, packed ? &bytes : w->dim, packed ? 1 : w->rank, &w->buffer,
                               &w->done, error);
    if (code == TW_OK) p->report.weight_bytes += w->bytes;
    return code;
}

/* A variant and the weights of its step; `compile`: when it has no executable. */
static int32_t twp__ready(tw_pjrt *p, const twp__step *step, twp__variant *v, int32_t compile, tw_error *error) {
    pthread_mutex_lock(&p->lock);
    int32_t code = twp__load_variant(p, step, v, compile, error);
    double start = twp__now();
    for (uint32_t i = 0; i < step->weight_count && code == TW_OK; i++) code = twp__place_weight(p, &p->weight[step->weight[i]], error);
    p->report.weights += twp__now() - start;
    pthread_mutex_unlock(&p->lock);
    return code;
}

/* -- one run ------------------------------------------------------------------------------------------------------- */

enum { TWP_NOWHERE, TWP_BORROWED, TWP_OWNED, TWP_OF_RUNTIME }; /* memory on the host */

typedef struct {
    int64_t dim[TW_MAX_RANK]; /* true sizes */
    void *data;               /* on the host, dense */
    int memory;
    pjrt_buffer *buffer;          /* on the device */
    int64_t padded[TW_MAX_RANK];  /* its sizes there */
    pjrt_event *done;
    void *staging; /* padded memory that the buffer may use */
} twp__value;

typedef struct {
    tw_pjrt *p;
    const twp__entry *e;
    int64_t symbol[TWP_SYMBOLS];
    twp__value *value; /* by slot */
    tw_error *error;
} twp__run;

/* Copies the first `box` elements along each dimension between dense tensors of other sizes. */
static void twp__copy_box(char *to, const int64_t *to_dim, const char *from, const int64_t *from_dim, const int64_t *box, int32_t rank,
                          int64_t bytes) {
    int64_t to_step = bytes, from_step = bytes;
    if (rank == 0) {
        memcpy(to, from, (size_t)bytes);
        return;
    }
    for (int32_t i = 1; i < rank; i++) {
        to_step *= to_dim[i];
        from_step *= from_dim[i];
    }
    int whole = 1;
    for (int32_t i = 1; i < rank; i++) whole = whole && box[i] == to_dim[i] && box[i] == from_dim[i];
    if (whole) {
        if (box[0] > 0 && to_step > 0) memcpy(to, from, (size_t)(box[0] * to_step));
        return;
    }
    for (int64_t i = 0; i < box[0]; i++)
        twp__copy_box(to + i * to_step, to_dim + 1, from + i * from_step, from_dim + 1, box + 1, rank - 1, bytes);
}

/* The sizes of a slot by values of symbols. */
static int32_t twp__sizes(const twp__run *r, uint32_t slot, const int64_t *symbols, int64_t *dim) {
    const twp__slot *s = &r->e->slot[slot];
    for (int32_t d = 0; d < s->rank; d++) {
        int known = twp__evaluate(s->dim[d], symbols, &dim[d]);
        if (known != 1 || dim[d] < 0)
            return tw__fail(r->error, TW_ARTIFACT, "entry '%s', slot %u: dimension %d %s", r->e->name, slot, (int)d,
                            known == 0 ? "hangs on a size that is not known yet" : "overflows or is negative");
    }
    return TW_OK;
}

static void twp__forget(const twp__run *r, twp__value *v) {
    twp__release(r->p, &v->buffer, &v->done);
    free(v->staging);
    v->staging = NULL;
}

static int32_t twp__bounds(const twp__run *r, uint32_t symbol) {
    const twp__symbol *s = &r->e->symbol[symbol];
    int64_t value = r->symbol[symbol];
    if (value >= s->least && value <= s->most && value % s->multiple == 0) return TW_OK;
    return tw__fail(r->error, TW_USAGE, "%s is %lld; the model takes %lld to %lld in steps of %lld", s->name, (long long)value, (long long)s->least,
                    (long long)s->most, (long long)s->multiple);
}

/* Takes sizes from the dimensions of a slot that are a symbol alone, and holds all others against them. */
static int32_t twp__bind(twp__run *r, uint32_t slot, const char *name, const char *shape) {
    const twp__slot *s = &r->e->slot[slot];
    const int64_t *dim = r->value[slot].dim;
    for (int32_t d = 0; d < s->rank; d++) {
        int64_t symbol = twp__lone(s->dim[d]);
        if (symbol < 0 || r->symbol[symbol] != TWP_UNKNOWN) continue;
        r->symbol[symbol] = dim[d];
        int32_t code = twp__bounds(r, (uint32_t)symbol);
        if (code != TW_OK) return code;
    }
    for (int32_t d = 0; d < s->rank; d++) {
        int64_t expected;
        int known = twp__evaluate(s->dim[d], r->symbol, &expected);
        if (known < 0 || (known == 1 && expected != dim[d]))
            return tw__fail(r->error, TW_USAGE, "'%s': dimension %d is %lld, the model takes %s", name, (int)d, (long long)dim[d], shape);
    }
    return TW_OK;
}

static int32_t twp__asserts(const twp__run *r) {
    for (uint32_t i = 0; i < r->e->assert_count; i++) {
        const twp__assert *a = &r->e->assertion[i];
        int64_t left, right;
        int knows = twp__evaluate(a->left, r->symbol, &left), too = twp__evaluate(a->right, r->symbol, &right);
        if (knows < 0 || too < 0 || (knows && too && left != right)) return tw__fail(r->error, TW_USAGE, "sizes do not fit: %s", a->text);
    }
    return TW_OK;
}

static int32_t twp__bind_inputs(twp__run *r, const tw_tensor *inputs, uint32_t count) {
    const twp__entry *e = r->e;
    if (count != e->input_count) return tw__fail(r->error, TW_USAGE, "entry '%s' has %u inputs, not %u", e->name, e->input_count, count);
    for (uint32_t i = 0; i < count; i++) {
        const tw_signature *s = &e->input[i];
        if (inputs[i].dtype != s->dtype)
            return tw__fail(r->error, TW_USAGE, "input '%s': its type is %d, the model takes %d", s->name, (int)inputs[i].dtype, (int)s->dtype);
        if (inputs[i].rank != s->rank)
            return tw__fail(r->error, TW_USAGE, "input '%s' has %d dimensions, the model takes %s", s->name, (int)inputs[i].rank, s->shape);
        int64_t bytes;
        if (!twp__bytes(e->slot[i].dtype, inputs[i].dim, s->rank, &bytes))
            return tw__fail(r->error, TW_USAGE, "input '%s': its sizes are impossible", s->name);
        memcpy(r->value[i].dim, inputs[i].dim, sizeof r->value[i].dim);
        r->value[i].data = inputs[i].data;
        r->value[i].memory = TWP_BORROWED;
    }
    for (uint32_t i = 0; i < count; i++) {
        int32_t code = twp__bind(r, i, e->input[i].name, e->input[i].shape);
        if (code != TW_OK) return code;
    }
    for (uint32_t i = 0; i < count; i++) { /* again: a size may have come from a later input */
        int32_t code = twp__bind(r, i, e->input[i].name, e->input[i].shape);
        if (code != TW_OK) return code;
    }
    return twp__asserts(r);
}

/* The first variant that holds the sizes. */
static int32_t twp__choose_variant(const twp__run *r, const twp__step *step, twp__variant **chosen) {
    char sizes[256] = "";
    for (uint32_t i = 0; i < step->variant_count; i++) {
        const int64_t *size = step->variant[i].sizes;
        int fits = 1;
        for (uint32_t s = 0; s < r->e->symbol_count && fits; s++) {
            if (size[s] == TWP_UNKNOWN) continue;
            int64_t value = r->symbol[s];
            if (value == TWP_UNKNOWN) return tw__fail(r->error, TW_ARTIFACT, "a program needs the size %s before it is known", r->e->symbol[s].name);
            fits = step->is_padded[s] ? value <= size[s] : value == size[s];
        }
        if (fits) return *chosen = &step->variant[i], TW_OK;
    }
    for (uint32_t s = 0; s < r->e->symbol_count; s++) {
        size_t used = strlen(sizes);
        if (step->variant->sizes[s] != TWP_UNKNOWN)
            snprintf(sizes + used, sizeof sizes - used, "%s%s=%lld", used ? ", " : "", r->e->symbol[s].name, (long long)r->symbol[s]);
    }
    return tw__fail(r->error, TW_USAGE, "no program of the artifact is large enough for %s: compile it for these sizes", sizes);
}

/* Brings a value to the host. */
static int32_t twp__to_host(const twp__run *r, uint32_t slot) {
    twp__value *v = &r->value[slot];
    const twp__slot *s = &r->e->slot[slot];
    int64_t bytes, padded;
    if (v->memory != TWP_NOWHERE) return TW_OK;
    if (!twp__bytes(s->dtype, v->dim, s->rank, &bytes) || !twp__bytes(s->dtype, v->padded, s->rank, &padded))
        return tw__fail(r->error, TW_ARTIFACT, "a tensor's size overflows");
    char *memory = (char *)aligned_alloc(TW_ALIGNMENT, ((size_t)padded / TW_ALIGNMENT + 1) * TW_ALIGNMENT), *cut = memory;
    if (memory == NULL) return tw__fail(r->error, TW_RESOURCE, "no memory for %lld bytes of a tensor", (long long)padded);
    int32_t code = twp__download(r->p, v->buffer, s->rank, memory, padded, r->error);
    if (code == TW_OK && memcmp(v->dim, v->padded, (size_t)s->rank * sizeof *v->dim) != 0) {
        cut = (char *)aligned_alloc(TW_ALIGNMENT, ((size_t)bytes / TW_ALIGNMENT + 1) * TW_ALIGNMENT);
        if (cut == NULL) code = tw__fail(r->error, TW_RESOURCE, "no memory for %lld bytes of a tensor", (long long)bytes);
        else if (bytes > 0) twp__copy_box(cut, v->dim, memory, v->padded, v->dim, s->rank, s->dtype->bits / 8);
        free(memory);
        memory = NULL;
    }
    if (code != TW_OK) return free(memory), code;
    v->data = cut;
    v->memory = TWP_OWNED;
    return TW_OK;
}

/* Brings a value to the device in the sizes that a program has; what is added is zero. */
static int32_t twp__to_device(const twp__run *r, uint32_t slot, const int64_t *sizes) {
    twp__value *v = &r->value[slot];
    const twp__slot *s = &r->e->slot[slot];
    int64_t dim[TW_MAX_RANK], bytes;
    int32_t code = twp__sizes(r, slot, sizes, dim);
    if (code != TW_OK) return code;
    if (v->buffer != NULL && memcmp(dim, v->padded, (size_t)s->rank * sizeof *dim) == 0) return TW_OK;
    if (s->dtype->type == 0) return tw__fail(r->error, TW_DEVICE, "tensors of type %s cannot be passed to a program", s->dtype->text);
    if ((code = twp__to_host(r, slot)) != TW_OK) return code;
    twp__forget(r, v);
    const void *data = v->data;
    if (memcmp(dim, v->dim, (size_t)s->rank * sizeof *dim) != 0) {
        for (int32_t d = 0; d < s->rank; d++)
            if (dim[d] < v->dim[d]) return tw__fail(r->error, TW_ARTIFACT, "a program is smaller than its input");
        if (!twp__bytes(s->dtype, dim, s->rank, &bytes)) return tw__fail(r->error, TW_ARTIFACT, "a tensor's size overflows");
        if ((v->staging = calloc(1, (size_t)bytes + 1)) == NULL)
            return tw__fail(r->error, TW_RESOURCE, "no memory for %lld bytes of a tensor", (long long)bytes);
        int64_t here;
        if (twp__bytes(s->dtype, v->dim, s->rank, &here) && here > 0)
            twp__copy_box((char *)v->staging, dim, (const char *)data, v->dim, v->dim, s->rank, s->dtype->bits / 8);
        data = v->staging;
    }
    memcpy(v->padded, dim, sizeof dim);
    return twp__upload(r->p, data, s->dtype->type, dim, s->rank, &v->buffer, &v->done, r->error);
}

typedef struct {
    pjrt_buffer **argument, **output, **scalar;
    pjrt_event **done;
    int64_t *kept;
    int32_t *size;
    uint32_t count;
} twp__call_lists;

static int32_t twp__gather(const twp__run *r, const twp__step *step, const twp__variant *v, twp__call_lists *c) {
    for (uint32_t i = 0; i < step->input_count; i++) {
        int32_t code = twp__to_device(r, step->input[i], v->sizes);
        if (code != TW_OK) return code;
        c->argument[c->count++] = r->value[step->input[i]].buffer;
    }
    for (uint32_t i = 0; i < step->padded_count; i++) {
        c->size[i] = (int32_t)r->symbol[step->padded[i]]; /* at most the variant's, which fits */
        int32_t code = twp__upload(r->p, &c->size[i], PJRT_S32, NULL, 0, &c->scalar[i], &c->done[i], r->error);
        if (code != TW_OK) return code;
        c->argument[c->count++] = c->scalar[i];
    }
    for (uint32_t i = 0; i < step->weight_count; i++) c->argument[c->count++] = r->p->weight[step->weight[i]].buffer;
    for (uint32_t i = 0; i < c->count; i++) c->kept[i] = i; /* weights stay, and inputs may be read by later steps */
    return TW_OK;
}

static int32_t twp__execute(const twp__run *r, const twp__variant *v, const twp__call_lists *c) {
    pjrt_execute_options options;
    pjrt_event *complete = NULL;
    pjrt_buffer *const *const arguments[1] = {c->argument};
    pjrt_buffer **const outputs[1] = {c->output};
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.kept = c->kept;
    options.kept_count = c->count;
    pjrt_execute_args args = {sizeof args, NULL, v->loaded, &options, arguments, 1, c->count, outputs, &complete, NULL};
    int32_t code = twp__call(r->p, PJRT_LOADED_EXECUTE, &args, v->module, r->error);
    return code != TW_OK ? code : twp__await(r->p, complete, v->module, r->error);
}

static int32_t twp__run_program(const twp__run *r, const twp__step *step) {
    tw_pjrt *p = r->p;
    twp__variant *v;
    int32_t code = twp__choose_variant(r, step, &v);
    if (code == TW_OK) code = twp__ready(p, step, v, p->allow_jit, r->error);
    if (code != TW_OK) return code;
    size_t most = (size_t)step->input_count + step->padded_count + step->weight_count + step->output_count + 1;
    twp__call_lists c = {(pjrt_buffer **)calloc(most, sizeof(void *)), (pjrt_buffer **)calloc(most, sizeof(void *)),
                         (pjrt_buffer **)calloc(most, sizeof(void *)),
                         (pjrt_event **)calloc(most, sizeof(void *)), (int64_t *)calloc(most, 8), (int32_t *)calloc(most, 4), 0};
    if (c.argument == NULL || c.output == NULL || c.scalar == NULL || c.done == NULL || c.kept == NULL || c.size == NULL)
        code = tw__fail(r->error, TW_RESOURCE, "no memory for a list of arguments");
    if (code == TW_OK) code = twp__gather(r, step, v, &c);
    if (code == TW_OK) code = twp__execute(r, v, &c);
    for (uint32_t i = 0; i < step->output_count && c.output != NULL; i++) {
        twp__value *value = &r->value[step->output[i]];
        value->buffer = c.output[i]; /* NULL where it did not run */
        if (code == TW_OK) code = twp__sizes(r, step->output[i], r->symbol, value->dim);
        if (code == TW_OK) code = twp__sizes(r, step->output[i], v->sizes, value->padded);
        for (int32_t d = 0; d < r->e->slot[step->output[i]].rank && code == TW_OK; d++)
            if (value->dim[d] > value->padded[d]) code = tw__fail(r->error, TW_ARTIFACT, "a program is smaller than its output");
        const twp__slot *s = &r->e->slot[step->output[i]];
        if (code == TW_OK) code = twp__check_result(p, value->buffer, s->dtype, value->padded, s->rank, r->error);
    }
    for (uint32_t i = 0; i < step->padded_count && c.scalar != NULL && c.done != NULL; i++) twp__release(p, &c.scalar[i], &c.done[i]);
    free(c.argument);
    free(c.output);
    free(c.scalar);
    free(c.done);
    free(c.kept);
    free(c.size);
    return code;
}

/* An entry point of the host part's plan. */
static int32_t twp__run_host(twp__run *r, const twp__step *step) {
    const tw_runtime *runtime = r->p->m->runtime;
    tw_tensor *in = (tw_tensor *)calloc((size_t)step->input_count + 1, sizeof *in),
        *out = (tw_tensor *)calloc((size_t)step->output_count + 1, sizeof *out);
    int32_t code = in != NULL && out != NULL ? TW_OK : tw__fail(r->error, TW_RESOURCE, "no memory for a list of arguments");
    for (uint32_t i = 0; i < step->input_count && code == TW_OK; i++) {
        uint32_t slot = step->input[i];
        if ((code = twp__to_host(r, slot)) != TW_OK) break;
        in[i].data = r->value[slot].data;
        in[i].dtype = r->e->slot[slot].dtype->dtype;
        in[i].rank = r->e->slot[slot].rank;
        memcpy(in[i].dim, r->value[slot].dim, sizeof in[i].dim);
        if (!twp__bytes(r->e->slot[slot].dtype, in[i].dim, in[i].rank, &in[i].bytes))
            code = tw__fail(r->error, TW_ARTIFACT, "a tensor's size overflows");
    }
    if (code == TW_OK) code = runtime->run(r->p->m->plan, step->host_entry, in, step->input_count, out, step->output_count, NULL, r->error);
    for (uint32_t i = 0; i < step->output_count && code == TW_OK; i++) { /* taken first: all of them are given back later */
        twp__value *value = &r->value[step->output[i]];
        value->data = out[i].data;
        value->memory = TWP_OF_RUNTIME;
        memcpy(value->dim, out[i].dim, sizeof value->dim);
    }
    for (uint32_t i = 0; i < step->output_count && code == TW_OK; i++) {
        const twp__slot *s = &r->e->slot[step->output[i]];
        if (out[i].dtype != s->dtype->dtype || out[i].rank != s->rank)
            code = tw__fail(r->error, TW_ARTIFACT, "a step on the host gives another type than program.json says");
        else code = twp__bind(r, step->output[i], "a step on the host", "what program.json says");
    }
    if (code == TW_OK) code = twp__asserts(r);
    free(in);
    free(out);
    return code;
}

/* Memory that `run` gave, or the caller's, gets an output. */
static int32_t twp__give(const twp__run *r, const void *data, int64_t bytes, const int64_t *dim, const tw_signature *s, tw_tensor *output) {
    if (output->data == NULL) output->data = malloc(bytes > 0 ? (size_t)bytes : 1);
    else if (output->bytes < bytes)
        return tw__fail(r->error, TW_USAGE, "output '%s' needs %lld bytes, its memory has %lld", s->name, (long long)bytes, (long long)output->bytes);
    if (output->data == NULL) return tw__fail(r->error, TW_RESOURCE, "no memory for output '%s'", s->name);
    if (bytes > 0) memmove(output->data, data, (size_t)bytes);
    output->bytes = bytes;
    output->dtype = s->dtype;
    output->rank = s->rank;
    memcpy(output->dim, dim, (size_t)s->rank * sizeof *dim);
    return TW_OK;
}

static int32_t twp__outputs(const twp__run *r, tw_tensor *outputs) {
    const twp__entry *e = r->e;
    int32_t code = TW_OK;
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) /* all are there before memory of inputs is written */
        if (e->result[i] >= 0) code = twp__to_host(r, (uint32_t)e->result[i]);
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) {
        int64_t bytes;
        if (e->result[i] < 0) {
            const twp__weight *w = &r->p->weight[-1 - e->result[i]];
            code = twp__give(r, (const char *)r->p->weights.data + w->offset, (int64_t)w->bytes, w->dim, &e->output[i], &outputs[i]);
            continue;
        }
        const twp__value *v = &r->value[e->result[i]];
        if (!twp__bytes(e->slot[e->result[i]].dtype, v->dim, e->output[i].rank, &bytes))
            code = tw__fail(r->error, TW_ARTIFACT, "a tensor's size overflows");
        else code = twp__give(r, v->data, bytes, v->dim, &e->output[i], &outputs[i]);
    }
    return code;
}

static int32_t twp__begin(twp__run *r, tw_pjrt *p, uint32_t entry, tw_error *error) {
    if (error != NULL) memset(error, 0, sizeof *error);
    if (entry >= p->entry_count) return tw__fail(error, TW_USAGE, "there is no entry point %u", entry);
    *r = (twp__run){.p = p, .e = &p->entry[entry], .error = error};
    for (int i = 0; i < TWP_SYMBOLS; i++) r->symbol[i] = TWP_UNKNOWN;
    r->value = (twp__value *)calloc((size_t)r->e->slot_count + 1, sizeof *r->value);
    return r->value != NULL ? TW_OK : tw__fail(error, TW_RESOURCE, "no memory for a run");
}

static void twp__end(twp__run *r) {
    for (uint32_t i = 0; r->value != NULL && i < r->e->slot_count; i++) {
        twp__value *v = &r->value[i];
        twp__forget(r, v);
        if (v->memory == TWP_OWNED) free(v->data);
        if (v->memory == TWP_OF_RUNTIME) r->p->m->runtime->release(v->data);
    }
    free(r->value);
}

int32_t tw_pjrt_prepare(tw_pjrt *p, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_error *error) {
    twp__run r;
    int32_t code = twp__begin(&r, p, entry, error);
    if (code != TW_OK) return code;
    code = twp__bind_inputs(&r, inputs, input_count);
    for (uint32_t i = 0; i < r.e->step_count && code == TW_OK && r.e->step[i].host == NULL; i++) {
        twp__variant *v;
        code = twp__choose_variant(&r, &r.e->step[i], &v);
        if (code == TW_OK) code = twp__ready(p, &r.e->step[i], v, p->allow_jit, error);
    }
    twp__end(&r);
    return code;
}

int32_t tw_pjrt_run(tw_pjrt *p, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs, uint32_t output_count,
                    tw_error *error) {
    twp__run r;
    int32_t code = twp__begin(&r, p, entry, error);
    if (code != TW_OK) return code;
    code = twp__bind_inputs(&r, inputs, input_count);
    if (code == TW_OK && output_count != r.e->output_count)
        code = tw__fail(error, TW_USAGE, "entry '%s' has %u outputs, not %u", r.e->name, r.e->output_count, output_count);
    for (uint32_t i = 0; i < input_count && code == TW_OK; i++)
        if (inputs[i].data == NULL) {
            int64_t bytes;
            if (twp__bytes(r.e->slot[i].dtype, inputs[i].dim, inputs[i].rank, &bytes) && bytes > 0)
                code = tw__fail(error, TW_USAGE, "input '%s' has no data", r.e->input[i].name);
        }
    for (uint32_t i = 0; i < r.e->step_count && code == TW_OK; i++)
        code = r.e->step[i].host != NULL ? twp__run_host(&r, &r.e->step[i]) : twp__run_program(&r, &r.e->step[i]);
    if (code == TW_OK) code = twp__outputs(&r, outputs);
    twp__end(&r);
    return code;
}

/* -- opening ------------------------------------------------------------------------------------------------------- */

static int twp__has_crc(void) {
#if defined(__x86_64__)
    unsigned a, b, c = 0, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 20 & 1); /* SSE4.2 */
#elif defined(__aarch64__)
    return (int)(getauxval(AT_HWCAP) >> 7 & 1); /* HWCAP_CRC32 */
#else
    return 0;
#endif
}

static void *twp__check(void *model) {
    tw_pjrt *p = (tw_pjrt *)model;
    int32_t threads = p->threads > 1 ? p->threads - 1 : 1; /* one is left for the plugin, which loads meanwhile */
    p->bad = tw_crc_check(p->weights.data, p->weights.bytes, p->sums.data, threads, twp__has_crc());
    return NULL;
}

/* Everything that needs no plugin; the weights are checked meanwhile. */
static int32_t twp__open_artifact(tw_pjrt *p, tw_error *error) {
    int32_t code = tw__read_directory(p->m, error);
    if (code == TW_OK) code = tw__read_manifest(p->m, error);
    if (code == TW_OK) code = tw__place_weights(p->m, &p->weights, &p->sums, error);
    if (code == TW_OK) code = twp__read_weights(p, error);
    if (code != TW_OK) return code;
    if (p->threads < 1) p->threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    p->checking = pthread_create(&p->checker, NULL, twp__check, p) == 0;
    if (!p->checking) twp__check(p);
    return TW_OK;
}

/* The part that was asked for, else the one of the plugin's platform: KIND:… or xla:KIND. */
static int32_t twp__choose_target(tw_pjrt *p, const char *wanted, tw_error *error) {
    const tw__json *j = &p->m->json;
    const char *platform = p->report.platform;
    size_t length = strlen(platform), used = 0;
    char there[512] = "none";
    uint32_t fitting = 0;
    for (uint32_t t = j->nodes[tw__get(j, 1, "targets")].child; t != 0; t = j->nodes[t].next) {
        const char *name = tw__text(j, tw__get(j, t, "target"));
        if (tw__get(j, tw__get(j, t, "members"), "program.json") == 0) continue;
        used += (size_t)snprintf(there + used, sizeof there - used, "%s%.100s", used ? ", " : "", name);
        if (used > sizeof there - 120) used = sizeof there - 120;
        int own = strncmp(name, platform, length) == 0 && name[length] == ':';
        int general = strncmp(name, "xla:", 4) == 0 && strcmp(name + 4, platform) == 0;
        int fits = wanted != NULL ? strcmp(wanted, name) == 0 : own || general;
        if (!fits) continue;
        fitting++;
        p->target = t;
        snprintf(p->m->target, sizeof p->m->target, "%s", name);
    }
    if (fitting == 1) return TW_OK;
    if (fitting > 1)
        return tw__fail(error, TW_USAGE, "several parts are for %s (%s; the device is '%s'): name one", platform, there, p->report.device);
    if (wanted != NULL) return tw__fail(error, TW_DEVICE, "the artifact holds no programs named %s (programs: %s)", wanted, there);
    return tw__fail(error, TW_DEVICE,
                    "the plugin is for '%s'; the artifact holds programs for: %s. Name one of them to run it there all the same", platform, there);
}

/* The host part, when there is one: its executor and kernels, and which entry point each step runs. */
static int32_t twp__open_host(tw_pjrt *p, tw_error *error) {
    const tw__json *j = &p->m->json;
    struct utsname system;
    char lacking[800] = "";
    uint32_t steps = 0;
    for (uint32_t e = 0; e < p->entry_count; e++)
        for (uint32_t s = 0; s < p->entry[e].step_count; s++) steps += p->entry[e].step[s].host != NULL;
    if (steps == 0) return TW_OK;
    uint32_t machine = tw__get(j, p->target, "host");
    const char *family = tw__text(j, tw__get(j, machine, "family"));
    if (uname(&system) != 0 || strcmp(family, system.machine) != 0)
        return tw__fail(error, TW_DEVICE, "the host part of %s is for '%s', this machine is %s", p->m->target, family, system.machine);
    int32_t code = tw__load_runtime(p->m, p->target, error);
    if (code != TW_OK) return code;
    if (!tw__fits(p->m, machine, lacking, sizeof lacking)) return tw__fail(error, TW_DEVICE, "this CPU lacks features of the host part: %s", lacking);
    p->m->weights_checked = 1; /* by the thread that started before */
    if ((code = tw__make_plan(p->m, p->target, p->threads, error)) != TW_OK) return code;
    for (uint32_t e = 0; e < p->entry_count; e++)
        for (uint32_t s = 0; s < p->entry[e].step_count; s++) {
            twp__step *step = &p->entry[e].step[s];
            int32_t index = step->host != NULL ? tw_entry(p->m, step->host) : 0;
            if (index < 0) return tw__fail(error, TW_ARTIFACT, "the host part has no entry point '%s'", step->host);
            step->host_entry = (uint32_t)index;
        }
    return TW_OK;
}

/* Waits until the weights are known to be whole. */
static int32_t twp__checked(tw_pjrt *p, tw_error *error) {
    if (p->checking) pthread_join(p->checker, NULL);
    p->checking = 0;
    if (p->bad >= 0) return tw__fail(error, TW_ARTIFACT, "the weights are damaged from byte %lld on", (long long)p->bad * 4096);
    return TW_OK;
}

static int32_t twp__open_program(tw_pjrt *p, tw_error *error) {
    tw__span text;
    int32_t code = twp__member(p, "program.json", &text, error);
    if (code == TW_OK) code = twp__parse(p, text.data, text.bytes, error);
    uint32_t devices = code == TW_OK ? twp__count(&p->program, tw__get(&p->program, 1, "mesh")) : 0;
    if (devices > 0)
        return tw__fail(error, TW_DEVICE,
                        "the artifact is for a mesh of devices; this loader runs on one. Run it from Python, or compile it without --mesh");
    return code;
}

/* Loads what has one program only and an executable for it, while the weights are still being checked. What is missing is
 * told when it is needed. */
static void twp__load_early(tw_pjrt *p) {
    tw_error ignored;
    for (uint32_t e = 0; e < p->entry_count; e++)
        for (uint32_t s = 0; s < p->entry[e].step_count; s++) {
            const twp__step *step = &p->entry[e].step[s];
            if (step->variant_count == 1) twp__ready(p, step, step->variant, 0, &ignored);
        }
}

static int32_t twp__open_bytes(tw_pjrt *p, const tw_pjrt_options *options, tw_error *error) {
    tw_pjrt_options none;
    memset(&none, 0, sizeof none);
    if (options == NULL) options = &none;
    p->threads = options->threads;
    p->allow_jit = options->allow_jit;
    double start = twp__now();
    int32_t code = twp__open_artifact(p, error);
    p->report.artifact = twp__now() - start;
    start = twp__now();
    if (code == TW_OK) code = twp__load_plugin(p, options->plugin, error);
    p->report.plugin = twp__now() - start;
    start = twp__now();
    if (code == TW_OK) code = twp__start_client(p, error);
    p->report.client = twp__now() - start;
    start = twp__now();
    if (code == TW_OK) code = twp__choose_target(p, options->target, error);
    if (code == TW_OK) code = twp__open_program(p, error);
    if (code == TW_OK) code = twp__open_host(p, error);
    p->report.artifact += twp__now() - start;
    if (code == TW_OK) twp__open_cache(p, options->cache);
    if (code == TW_OK) twp__load_early(p);
    start = twp__now();
    if (code == TW_OK) code = twp__checked(p, error);
    p->report.check = twp__now() - start;
    return code;
}

static tw_pjrt *twp__new_model(tw_error *error) {
    tw_pjrt *p = (tw_pjrt *)calloc(1, sizeof *p);
    if (p == NULL) {
        tw__fail(error, TW_RESOURCE, "no memory for the model");
        return NULL;
    }
    pthread_mutex_init(&p->lock, NULL);
    p->bad = -1;
    if ((p->m = tw__new_model(error)) != NULL) return p;
    tw_pjrt_close(p);
    return NULL;
}

static int32_t twp__finish(tw_pjrt **model, tw_pjrt *p, int32_t code) {
    *model = code == TW_OK ? p : NULL;
    if (code != TW_OK) tw_pjrt_close(p);
    return code;
}

int32_t tw_pjrt_open_memory(tw_pjrt **model, const void *data, uint64_t bytes, const tw_pjrt_options *options, tw_error *error) {
    tw_pjrt *p = twp__new_model(error);
    *model = NULL;
    if (p == NULL) return TW_RESOURCE;
    p->m->data = (const unsigned char *)data;
    p->m->bytes = bytes;
    return twp__finish(model, p, twp__open_bytes(p, options, error));
}

int32_t tw_pjrt_open(tw_pjrt **model, const char *path, const tw_pjrt_options *options, tw_error *error) {
    tw_pjrt *p = twp__new_model(error);
    *model = NULL;
    if (p == NULL) return TW_RESOURCE;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return twp__finish(model, p, tw__fail(error, TW_USAGE, "%s: %s", path, strerror(errno)));
    int32_t code = tw__read_file(p->m, file, path, options != NULL && options->copy, error);
    close(file);
    if (code == TW_OK) code = twp__open_bytes(p, options, error);
    return twp__finish(model, p, code);
}

void tw_pjrt_close(tw_pjrt *p) {
    if (p == NULL) return;
    if (p->checking) pthread_join(p->checker, NULL);
    for (uint32_t e = 0; e < p->entry_count; e++)
        for (uint32_t s = 0; s < p->entry[e].step_count; s++)
            for (uint32_t v = 0; v < p->entry[e].step[s].variant_count; v++) twp__drop(p, PJRT_LOADED_DESTROY, p->entry[e].step[s].variant[v].loaded);
    for (uint32_t w = 0; w < p->weight_count; w++) twp__release(p, &p->weight[w].buffer, &p->weight[w].done);
    twp__drop(p, PJRT_CLIENT_DESTROY, p->client);
    tw_close(p->m);
    while (p->blocks != NULL) {
        twp__block *next = p->blocks->next;
        free(p->blocks);
        p->blocks = next;
    }
    free(p->program.nodes);
    free(p->program_text);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

const char *tw_pjrt_target(const tw_pjrt *p) { return p->m->target; }
uint32_t tw_pjrt_input_count(const tw_pjrt *p, uint32_t entry) { return p->entry[entry].input_count; }
uint32_t tw_pjrt_output_count(const tw_pjrt *p, uint32_t entry) { return p->entry[entry].output_count; }
const tw_signature *tw_pjrt_input(const tw_pjrt *p, uint32_t entry, uint32_t i) { return &p->entry[entry].input[i]; }
const tw_signature *tw_pjrt_output(const tw_pjrt *p, uint32_t entry, uint32_t i) { return &p->entry[entry].output[i]; }
void tw_pjrt_free(void *data) { free(data); }

int32_t tw_pjrt_entry(const tw_pjrt *p, const char *name) {
    for (uint32_t i = 0; i < p->entry_count; i++)
        if (strcmp(p->entry[i].name, name) == 0) return (int32_t)i;
    return -1;
}

void tw_pjrt_read_report(tw_pjrt *p, tw_pjrt_report *report) {
    pthread_mutex_lock(&p->lock);
    *report = p->report;
    pthread_mutex_unlock(&p->lock);
}

#endif /* TILEWRIGHT_PJRT_IMPLEMENTATION */
