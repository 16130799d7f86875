/* Runs the instructions of an entry point. Indices were verified at load; sizes and addresses are checked here. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "device.h"

#define GRID_LIMIT ((int64_t)1 << 48) /* so that no block number overflows */
#define HUGE_PAGE ((size_t)2 << 20)
#define REFUSE(run, code, ...) return twr_fail((run)->context->error, (code), __VA_ARGS__)

typedef struct {
    tw_plan *plan;
    Context *context;
    Entry *entry;
    const Layout *layout;
    uint32_t depth;
    const Memory *inputs;
    Memory *outputs;
    int64_t *symbols;  /* the entry's, then those that the program sets */
    Memory *at;        /* by buffer: address and room; for dynamic roots only once allocated */
    void *arena[SPACES];
    void **arguments;  /* of one launch */
    int64_t *dims;
    Memory *passed;    /* of one call */
} Run;

/* Aligned memory; huge pages where they can help. NULL when there is none. */
void *twr_aligned(size_t bytes) {
    void *memory = NULL;
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : TW_ALIGNMENT;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&memory, alignment, bytes ? bytes : 1) != 0) return NULL;
    if (alignment == HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

/* Makes `*memory` at least `bytes` large; its contents are lost when it grows. */
bool twr_reserve(void **memory, size_t *capacity, size_t bytes) {
    if (bytes <= *capacity && *memory != NULL) return true;
    free(*memory);
    *memory = twr_aligned(bytes);
    *capacity = *memory != NULL ? bytes : 0;
    return *memory != NULL;
}

static int32_t number(const Run *run, uint32_t expr, int64_t *value) {
    if (!run->entry->exprs[expr].dynamic) {
        *value = run->layout->value[expr];
        return TW_OK;
    }
    if (twr_evaluate(&run->entry->exprs[expr], run->symbols, value)) return TW_OK;
    REFUSE(run, TW_USAGE, "entry '%s': a size overflows or divides by zero", run->entry->name);
}

#define NUMBER(run, expr, value)                                 \
    do {                                                         \
        int32_t number_code = number((run), (expr), (value));    \
        if (number_code != TW_OK) return number_code;            \
    } while (0)

static bool on_device(const Run *run, uint32_t space) { return run->plan->device != NULL && space == SPACE_DEVICE; }

/* Memory where the plan wants an output or a buffer; `what` it is for. */
static int32_t new_memory(Run *run, uint32_t space, int64_t size, const char *what, Memory *memory) {
    *memory = (Memory){NULL, size, true};
    if (on_device(run, space)) return twr_device_allocate(run->plan, &memory->data, size, what, run->context->error);
    memory->data = twr_aligned((size_t)size);
    if (memory->data == NULL) REFUSE(run, TW_RESOURCE, "no memory for %s of %" PRId64 " bytes", what, size);
    return TW_OK;
}

/* The host may read and write its memory of the run. */
static int32_t settle(Run *run) { return run->plan->device != NULL ? twr_device_settle(run->plan, run->context) : TW_OK; }

/* An output whose size is known only now. */
static int32_t allocate_output(Run *run, uint32_t buffer, uint32_t output) {
    int64_t size;
    NUMBER(run, run->entry->buffers[buffer].size, &size);
    Memory *memory = &run->outputs[output];
    if (size < 0) REFUSE(run, TW_ARTIFACT, "entry '%s': buffer %u has a negative size", run->entry->name, buffer);
    if (memory->data == NULL) {
        int32_t code = new_memory(run, run->entry->buffers[buffer].space, size, "an output", memory);
        if (code != TW_OK) return code;
    }
    if (size > memory->bytes)
        REFUSE(run, TW_USAGE, "output '%s' needs %" PRId64 " bytes, the memory given has %" PRId64,
               run->entry->outputs[output].text.name, size, memory->bytes);
    run->at[buffer] = (Memory){memory->data, size, false};
    return TW_OK;
}

/* Address and size of a dynamic buffer, from the root outwards. */
static int32_t resolve_dynamic(Run *run, uint32_t buffer, Memory *result) {
    const Buffer *buffers = run->entry->buffers;
    uint32_t root = buffers[buffer].root;
    if (run->at[root].data == NULL) {
        if (buffers[root].kind != BUFFER_OUTPUT)
            REFUSE(run, TW_ARTIFACT, "entry '%s': buffer %u is used while it has no memory", run->entry->name, root);
        int32_t code = allocate_output(run, root, buffers[root].index);
        if (code != TW_OK) return code;
    }
    *result = run->at[root];
    if (buffer == root) return TW_OK;
    int64_t size, total = 0;
    NUMBER(run, buffers[buffer].size, &size);
    result->bytes = size;
    for (uint32_t i = buffer; i != root; i = buffers[i].base) {
        int64_t offset, room = run->at[root].bytes;
        NUMBER(run, buffers[i].offset, &offset);
        if (buffers[i].base != root) NUMBER(run, buffers[buffers[i].base].size, &room);
        if (offset < 0 || size < 0 || offset > room || size > room - offset)
            REFUSE(run, TW_ARTIFACT, "entry '%s': buffer %u reaches past its base", run->entry->name, i);
        total += offset;
        size = room;
    }
    result->data = (char *)result->data + total;
    return TW_OK;
}

static int32_t resolve(Run *run, uint32_t buffer, Memory *result) {
    if (run->entry->buffers[buffer].dynamic) return resolve_dynamic(run, buffer, result);
    *result = run->at[buffer];
    return TW_OK;
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A kernel of the host on its threads. */
static int32_t launch_here(Run *run, tw_kernel kernel, uint32_t number, const char *name, int64_t grid, int64_t scratch) {
    Context *context = run->context;
    int64_t stride = (scratch + TW_ALIGNMENT - 1) & ~(int64_t)(TW_ALIGNMENT - 1);
    if (stride > 0 && !twr_reserve(&context->scratch, &context->scratch_bytes, (size_t)stride * (size_t)run->plan->pool.threads))
        REFUSE(run, TW_RESOURCE, "no memory for %" PRId64 " bytes of scratch on each thread", scratch);
    int32_t fault = 0;
    tw_args args = {run->arguments, run->dims, NULL, &fault};
    tw_profile *profile = context->profile;
    double start = profile != NULL ? seconds_now() : 0;
    twr_pool_run(&run->plan->pool, kernel, &args, stride ? context->scratch : NULL, stride, grid);
    if (__atomic_load_n(&fault, __ATOMIC_RELAXED))
        REFUSE(run, TW_USAGE, "entry '%s': an index in the inputs lies outside the tensor it selects from (kernel %s)",
               run->entry->name, name);
    if (profile != NULL) {
        if (profile->count < profile->capacity) {
            profile->kernel[profile->count] = number;
            profile->seconds[profile->count] = seconds_now() - start;
        }
        profile->count++;
    }
    return TW_OK;
}

static int32_t launch(Run *run, const uint32_t *a, bool host_part) {
    int64_t grid, scratch;
    NUMBER(run, a[1], &grid);
    NUMBER(run, a[2], &scratch);
    for (uint32_t i = 0; i < a[3]; i++) {
        Memory memory;
        int32_t code = resolve(run, a[5 + i], &memory);
        if (code != TW_OK) return code;
        run->arguments[i] = memory.data;
    }
    for (uint32_t i = 0; i < a[4]; i++) NUMBER(run, a[5 + a[3] + i], &run->dims[i]);
    tw_plan *plan = run->plan;
    if (grid < 0 || grid > GRID_LIMIT || scratch < 0 || (scratch > INT32_MAX && (host_part || plan->device == NULL)))
        REFUSE(run, TW_ARTIFACT, "entry '%s': kernel %u has a malformed grid or scratch", run->entry->name, a[0]);
    if (grid == 0) return TW_OK;
    if (host_part) {
        int32_t code = settle(run);
        if (code != TW_OK) return code;
        return launch_here(run, plan->host_kernels[a[0]], plan->kernel_count + a[0], plan->host_names[a[0]], grid, scratch);
    }
    if (plan->device == NULL) return launch_here(run, plan->kernels[a[0]], a[0], plan->kernel_names[a[0]], grid, scratch);
    return twr_device_launch(plan, run->context, run->entry, a[0], run->arguments, run->dims, grid, scratch);
}

static int32_t move(Run *run, void *to, uint32_t to_space, const void *from, uint32_t from_space, int64_t size) {
    if (run->plan->device != NULL)
        return twr_device_copy(run->plan, run->context, to, to_space, from, from_space, (size_t)size);
    if (size > 0) memmove(to, from, (size_t)size);
    return TW_OK;
}

static int32_t copy(Run *run, const uint32_t *a) {
    Memory source, target;
    int64_t size;
    int32_t code = resolve(run, a[0], &source);
    if (code == TW_OK) code = resolve(run, a[1], &target);
    if (code != TW_OK) return code;
    NUMBER(run, a[2], &size);
    if (size < 0 || size > source.bytes || size > target.bytes)
        REFUSE(run, TW_ARTIFACT, "entry '%s': a copy of %" PRId64 " bytes reaches past its buffers", run->entry->name, size);
    return move(run, target.data, run->entry->buffers[a[1]].space, source.data, run->entry->buffers[a[0]].space, size);
}

static int64_t integer_at(const unsigned char *p, int32_t dtype) {
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; int64_t i64; } v;
    memset(&v, 0, sizeof v);
    memcpy(&v, p, (size_t)twr_element_bits(dtype) / 8);
    switch (dtype) {
    case 2: case 9: return v.u8;
    case 3: return v.i8;
    case 4: return v.u16;
    case 5: return v.i16;
    case 6: return v.i32;
    case 12: return v.u32;
    default: return v.i64;
    }
}

static int32_t load_scalar(Run *run, const uint32_t *a) {
    Memory memory;
    int64_t element, width = twr_element_bits((int32_t)a[2]) / 8;
    int32_t code = resolve(run, a[1], &memory);
    if (code != TW_OK) return code;
    NUMBER(run, a[3], &element);
    if (element < 0 || element >= memory.bytes / width)
        REFUSE(run, TW_ARTIFACT, "entry '%s': element %" PRId64 " lies past its buffer", run->entry->name, element);
    unsigned char raw[8];
    const unsigned char *at = (const unsigned char *)memory.data + element * width;
    if (on_device(run, run->entry->buffers[a[1]].space)) {
        code = twr_device_read(run->plan, run->context, raw, at, (size_t)width);
        at = raw;
    } else {
        code = settle(run);
    }
    if (code != TW_OK) return code;
    int64_t value = integer_at(at, (int32_t)a[2]);
    if (a[2] == 13 && value < 0) REFUSE(run, TW_USAGE, "entry '%s': a size is larger than 2^63", run->entry->name);
    run->symbols[a[0]] = value;
    return TW_OK;
}

static int32_t check(Run *run, const uint32_t *a) {
    int64_t value, lo, hi;
    NUMBER(run, a[0], &value);
    NUMBER(run, a[1], &lo);
    NUMBER(run, a[2], &hi);
    if (value >= lo && value <= hi) return TW_OK;
    REFUSE(run, TW_USAGE, "%s: %" PRId64 " is not within %" PRId64 " and %" PRId64, run->plan->strings + a[3], value, lo, hi);
}

static int32_t allocate(Run *run, uint32_t buffer) {
    int64_t size;
    NUMBER(run, run->entry->buffers[buffer].size, &size);
    if (run->at[buffer].data != NULL || size < 0)
        REFUSE(run, TW_ARTIFACT, "entry '%s': buffer %u is allocated twice or has a negative size", run->entry->name, buffer);
    Memory memory;
    int32_t code = new_memory(run, run->entry->buffers[buffer].space, size, "a buffer", &memory);
    if (code == TW_OK) run->at[buffer] = memory;
    return code;
}

static void release(Run *run, uint32_t buffer) {
    if (on_device(run, run->entry->buffers[buffer].space)) {
        twr_device_release(run->plan, run->context->stream, run->at[buffer].data);
    } else {
        settle(run); /* a failing device fails the next step too */
        free(run->at[buffer].data);
    }
    run->at[buffer] = (Memory){NULL, 0, false};
}

/* Runs another entry point on this one's buffers. Its symbols are given, its inputs' sizes are checked against them. */
static int32_t call(Run *run, const uint32_t *a) {
    if (run->depth + 1 >= CALL_LIMIT) REFUSE(run, TW_ARTIFACT, "entry '%s': calls nest too deeply", run->entry->name);
    Entry *callee = &run->plan->entries[a[0]];
    const uint32_t *buffers = a + 4, *symbols = a + 4 + a[1] + a[2];
    for (uint32_t i = 0; i < a[1] + a[2]; i++) {
        int32_t code = resolve(run, buffers[i], &run->passed[i]);
        if (code != TW_OK) return code;
        run->passed[i].owned = false;
    }
    for (uint32_t i = 0; i < a[3]; i++) NUMBER(run, symbols[i], &run->dims[i]);
    int32_t code = twr_check_symbols(callee, run->dims, run->context->error);
    Layout *layout = NULL;
    if (code == TW_OK) code = twr_layout(run->plan, callee, run->dims, &layout, run->context->error);
    if (code != TW_OK) return code;
    code = twr_execute(run->plan, run->context, a[0], layout, run->depth + 1, run->passed, run->passed + a[1], NULL);
    twr_release_layout(run->plan, layout);
    return code;
}

/* Addresses of everything that is known before the first instruction. */
static int32_t place(Run *run) {
    const Entry *e = run->entry;
    Context *context = run->context;
    int64_t room = run->layout->arena_bytes[SPACE_HOST];
    if (run->plan->device != NULL) {
        int32_t code = twr_device_arena(run->plan, context, run->depth, run->layout, run->arena);
        if (code != TW_OK) return code;
    } else if (!twr_reserve(&context->arena[run->depth], &context->arena_bytes[run->depth], (size_t)room)) {
        REFUSE(run, TW_RESOURCE, "no memory for %" PRId64 " bytes of temporaries", room);
    } else {
        run->arena[SPACE_HOST] = context->arena[run->depth];
    }
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        const Buffer *b = &e->buffers[i];
        if (b->dynamic) continue;
        int64_t size = run->layout->value[b->size];
        Memory home = {NULL, INT64_MAX, false};
        if (b->base != NONE) home.data = (char *)run->at[b->root].data + run->layout->place[i];
        else if (b->kind == BUFFER_TEMPORARY) home.data = (char *)run->arena[b->space] + run->layout->place[i];
        else if (b->kind == BUFFER_CONSTANT && on_device(run, b->space)) home.data = (void *)(uintptr_t)run->plan->device->constants[b->index];
        else if (b->kind == BUFFER_CONSTANT) home.data = (void *)(uintptr_t)run->plan->constants[b->index].data;
        else if (b->kind == BUFFER_INPUT) home = run->inputs[b->index];
        else home = run->outputs[b->kind == BUFFER_OUTPUT ? b->index : e->states[2 * b->index + 1]];
        if (size > home.bytes || home.data == NULL)
            REFUSE(run, TW_ARTIFACT, "entry '%s': buffer %u is larger than what it names", e->name, i);
        run->at[i] = (Memory){home.data, size, false};
    }
    return TW_OK;
}

static int32_t step(Run *run, uint32_t *counter) {
    const Instruction *instruction = &run->entry->code[(*counter)++];
    const uint32_t *a = instruction->arg;
    int64_t value = 1;
    switch (instruction->op) {
    case OP_LAUNCH: return launch(run, a, false);
    case OP_HOST_LAUNCH: return launch(run, a, true);
    case OP_COPY: return copy(run, a);
    case OP_LOAD: return load_scalar(run, a);
    case OP_ASSERT: return check(run, a);
    case OP_ALLOCATE: return allocate(run, a[0]);
    case OP_FREE: release(run, a[0]); return TW_OK;
    case OP_SET: return number(run, a[1], &run->symbols[a[0]]);
    case OP_CALL: return call(run, a);
    case OP_JUMP:
        if (a[1] != NONE) NUMBER(run, a[1], &value);
        if (value != 0) *counter = a[0];
        return TW_OK;
    default: *counter = run->entry->code_count; return TW_OK;
    }
}

/* Shapes of the outputs, and that their memory is there and large enough. */
static int32_t finish(Run *run, int64_t (*out_dims)[TW_MAX_RANK]) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->output_count; i++) {
        int64_t dims[TW_MAX_RANK], bytes;
        const Signature *s = &e->outputs[i];
        for (int32_t d = 0; d < s->text.rank; d++) NUMBER(run, s->dim[d], &dims[d]);
        if (!twr_tensor_bytes(s->text.dtype, dims, s->text.rank, &bytes))
            REFUSE(run, TW_ARTIFACT, "output '%s' has a negative or too large dimension", s->text.name);
        Memory *memory = &run->outputs[i];
        if (memory->data == NULL) {
            int32_t code = new_memory(run, s->space, bytes, "an output", memory);
            if (code != TW_OK) return code;
        }
        if (bytes > memory->bytes)
            REFUSE(run, TW_ARTIFACT, "output '%s' has more bytes than its memory", s->text.name);
        if (out_dims != NULL) memcpy(out_dims[i], dims, (size_t)s->text.rank * sizeof *dims);
    }
    return TW_OK;
}

static bool make_frame(Run *run) {
    const Entry *e = run->entry;
    size_t symbols = (size_t)e->symbol_count + e->local_count, limit = e->argument_limit;
    size_t bytes = symbols * 8 + e->buffer_count * sizeof(Memory) + limit * (sizeof(Memory) + 16);
    if (!twr_reserve(&run->context->frame[run->depth], &run->context->frame_bytes[run->depth], bytes)) return false;
    memset(run->context->frame[run->depth], 0, bytes);
    run->at = run->context->frame[run->depth];
    run->passed = run->at + e->buffer_count;
    run->symbols = (int64_t *)(run->passed + limit);
    run->dims = run->symbols + symbols;
    run->arguments = (void **)(run->dims + limit);
    if (e->symbol_count) memcpy(run->symbols, run->layout->symbol, e->symbol_count * sizeof *run->symbols);
    return true;
}

static int32_t begin_states(Run *run) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->state_count; i++) {
        Memory *out = &run->outputs[e->states[2 * i + 1]];
        const Memory *in = &run->inputs[e->states[2 * i]];
        if (out->data == in->data) continue;
        if (out->data == NULL || out->bytes < in->bytes)
            REFUSE(run, TW_ARTIFACT, "a state's output '%s' is smaller than its input", e->outputs[e->states[2 * i + 1]].text.name);
        uint32_t space = e->inputs[e->states[2 * i]].space;
        int32_t code = move(run, out->data, space, in->data, space, in->bytes);
        if (code != TW_OK) return code;
    }
    return TW_OK;
}

/* Runs entry `entry` whose inputs fit `layout`. Outputs of unknown size are allocated; `out_dims` may be NULL. */
int32_t twr_execute(tw_plan *plan, Context *context, uint32_t entry, Layout *layout, uint32_t depth, const Memory *inputs,
                    Memory *outputs, int64_t (*out_dims)[TW_MAX_RANK]) {
    Run run = {plan, context, &plan->entries[entry], layout, depth, inputs, outputs, NULL, NULL, {NULL, NULL}, NULL, NULL, NULL};
    if (!make_frame(&run)) REFUSE(&run, TW_RESOURCE, "no memory for a run of entry '%s'", run.entry->name);
    int32_t code = begin_states(&run);
    if (code == TW_OK) code = place(&run);
    uint32_t counter = 0;
    while (code == TW_OK && counter < run.entry->code_count) {
        if (context->budget-- == 0) {
            code = twr_fail(context->error, TW_ARTIFACT, "entry '%s': stopped after %u instructions", run.entry->name, BUDGET);
            break;
        }
        code = step(&run, &counter);
    }
    if (code == TW_OK) code = finish(&run, out_dims);
    for (uint32_t i = 0; i < run.entry->buffer_count; i++)
        if (run.at[i].owned) release(&run, i);
    return code;
}
