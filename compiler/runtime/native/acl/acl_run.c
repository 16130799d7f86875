/* One run on an Ascend device: inputs go there through page-locked memory, outputs come back the same way. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* A tensor of the caller, and where the run has it. */
typedef struct {
    Memory memory;   /* what the executor is given */
    void *home;      /* the caller's memory, or what we allocated for an output */
    int64_t bytes, room;
    uint32_t wanted; /* space of the plan */
    bool late, ours;
    size_t io, pin;  /* offsets in the blocks of the stream */
} Tensor;

typedef struct {
    tw_plan *plan;
    Context *context;
    Stream *stream;
    const Entry *entry;
    Tensor *in, *out;
    size_t io_bytes, pin_bytes;
} Run;

#define ERROR(run) ((run)->context->error)

static size_t take(size_t *used, int64_t bytes) {
    size_t at = *used;
    *used += ((size_t)bytes + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT + IO_ALIGNMENT;
    return at;
}

static uint32_t wanted(const Signature *s) { return s->space == NONE ? SPACE_HOST : s->space; }

static int32_t sort_input(Run *run, uint32_t i, const tw_tensor *given) {
    const Signature *s = &run->entry->inputs[i];
    Tensor *t = &run->in[i];
    if (!twr_tensor_bytes(given->dtype, given->dim, given->rank, &t->bytes) || (given->data == NULL && t->bytes > 0))
        return twr_fail(ERROR(run), TW_USAGE, "input '%s' has no memory", s->text.name);
    t->home = given->data;
    t->wanted = wanted(s);
    t->pin = take(&run->pin_bytes, t->bytes);
    if (t->wanted == SPACE_DEVICE) t->io = take(&run->io_bytes, t->bytes);
    return TW_OK;
}

static int32_t check_room(const Run *run, const Tensor *t, const char *name) {
    if (t->home == NULL || t->bytes <= t->room) return TW_OK;
    return twr_fail(ERROR(run), TW_USAGE, "output '%s' needs %" PRId64 " bytes, the memory given has %" PRId64, name, t->bytes, t->room);
}

/* Memory of our own for an output of known size. */
static int32_t allocate_home(const Run *run, Tensor *t, const char *name) {
    if (t->home != NULL) return TW_OK;
    t->home = twr_aligned((size_t)t->bytes);
    t->room = t->bytes;
    t->ours = t->home != NULL;
    return t->ours ? TW_OK : twr_fail(ERROR(run), TW_RESOURCE, "no memory for output '%s'", name);
}

/* Its `home` and `room` are set. */
static int32_t sort_output(Run *run, uint32_t i, int64_t bytes) {
    const Signature *s = &run->entry->outputs[i];
    Tensor *t = &run->out[i];
    t->bytes = bytes;
    t->wanted = wanted(s);
    t->late = bytes < 0;
    if (t->late) return TW_OK;
    int32_t code = check_room(run, t, s->text.name);
    if (code == TW_OK) code = allocate_home(run, t, s->text.name);
    t->pin = take(&run->pin_bytes, bytes);
    if (t->wanted == SPACE_DEVICE) t->io = take(&run->io_bytes, bytes);
    return code;
}

static char *place(char *base, size_t at) { return (char *)(((uintptr_t)base + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT) + at; }

static int32_t reserve(Run *run) {
    Stream *s = run->stream;
    int32_t code = twr_device_grow(run->plan, s, &s->io, run->io_bytes + 2 * IO_ALIGNMENT, "the inputs and outputs", ERROR(run));
    if (code == TW_OK) code = twr_device_pin(run->plan, s, &s->pinned, run->pin_bytes + 2 * IO_ALIGNMENT, "the inputs and outputs", ERROR(run));
    if (code != TW_OK) return code;
    Tensor *sides[] = {run->in, run->out};
    const uint32_t counts[] = {run->entry->input_count, run->entry->output_count};
    for (int side = 0; side < 2; side++)
        for (uint32_t i = 0; i < counts[side]; i++) {
            Tensor *t = &sides[side][i];
            bool device = t->wanted == SPACE_DEVICE;
            if (!t->late) t->memory = (Memory){place(device ? s->io.data : s->pinned.data, device ? t->io : t->pin), t->bytes, false};
        }
    return TW_OK;
}

static int32_t send_inputs(Run *run) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->state_count; i++) { /* a state is brought to where it will be changed */
        Tensor *in = &run->in[e->states[2 * i]], *out = &run->out[e->states[2 * i + 1]];
        if (out->memory.data != NULL && out->memory.bytes >= in->bytes && in->wanted == out->wanted) in->memory.data = out->memory.data;
    }
    for (uint32_t i = 0; i < e->input_count; i++) {
        Tensor *t = &run->in[i];
        if (t->bytes == 0) continue;
        char *pinned = t->wanted == SPACE_DEVICE ? place(run->stream->pinned.data, t->pin) : t->memory.data;
        memcpy(pinned, t->home, (size_t)t->bytes);
        if (t->wanted != SPACE_DEVICE) continue;
        int32_t code = twr_device_copy(run->plan, run->context, t->memory.data, SPACE_DEVICE, pinned, SPACE_HOST, (size_t)t->bytes);
        if (code != TW_OK) return code;
    }
    return TW_OK;
}

/* Zeroes the word in which kernels say that they met an index outside its tensor. */
static int32_t begin(Run *run) {
    if (!run->plan->device->faults) return TW_OK;
    ACL(ERROR(run), aclrtMemsetAsync, "the word for faults", run->stream->fault, IO_ALIGNMENT, 0, sizeof(int32_t), run->stream->own);
    return TW_OK;
}

static int32_t check_fault(Run *run) {
    int32_t fault = 0;
    if (!run->plan->device->faults) return TW_OK;
    int32_t code = twr_device_read(run->plan, run->context, &fault, run->stream->fault, sizeof fault);
    if (code != TW_OK || fault == 0) return code;
    return twr_fail(ERROR(run), TW_USAGE, "entry '%s': an index in the inputs lies outside the tensor it selects from", run->entry->name);
}

/* Device memory of an output that the executor allocated, because its size was known only then. */
static int32_t keep_until_done(Run *run, Tensor *t) {
    Stream *s = run->stream;
    void **grown = realloc(s->late, (s->late_count + 1) * sizeof *grown);
    if (grown == NULL) return twr_fail(ERROR(run), TW_RESOURCE, "no memory for the run");
    s->late = grown;
    s->late[s->late_count++] = t->memory.data;
    t->memory.owned = false;
    return TW_OK;
}

static int32_t fetch(Run *run, Tensor *t, const char *name) {
    void *to = t->late ? NULL : place(run->stream->pinned.data, t->pin);
    int32_t code = check_room(run, t, name);
    if (code == TW_OK) code = allocate_home(run, t, name);
    if (code != TW_OK || t->bytes == 0) return code;
    if (t->wanted != SPACE_DEVICE) {
        memcpy(t->home, t->memory.data, (size_t)t->bytes);
        return TW_OK;
    }
    if (to == NULL) to = t->home;
    code = twr_device_copy(run->plan, run->context, to, SPACE_HOST, t->memory.data, SPACE_DEVICE, (size_t)t->bytes);
    if (code == TW_OK) code = twr_device_settle(run->plan, run->context);
    if (code == TW_OK && to != t->home) memcpy(t->home, to, (size_t)t->bytes);
    return code;
}

static int32_t fetch_outputs(Run *run, int64_t (*dims)[TW_MAX_RANK]) {
    const Entry *e = run->entry;
    int32_t code = twr_device_settle(run->plan, run->context);
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) {
        Tensor *t = &run->out[i];
        const tw_signature *s = &e->outputs[i].text;
        twr_tensor_bytes(s->dtype, dims[i], s->rank, &t->bytes); /* the executor saw that it fits */
        code = fetch(run, t, s->name);
        if (!t->late || !t->memory.owned) continue;
        if (t->wanted == SPACE_DEVICE) {
            int32_t kept = keep_until_done(run, t);
            code = code == TW_OK ? kept : code;
        } else {
            free(t->memory.data);
            t->memory.owned = false;
        }
    }
    return code;
}

static int32_t start(Run *run, const Layout *layout, const tw_tensor *inputs, tw_tensor *outputs) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->output_count; i++) {
        run->out[i].home = outputs[i].data;
        run->out[i].room = outputs[i].bytes;
    }
    int32_t code = twr_describe_outputs(e, layout, outputs, ERROR(run));
    if (code == TW_OK) code = twr_device_stream(run->plan, run->context, ERROR(run));
    if (code != TW_OK) return code;
    run->stream = run->context->stream;
    for (uint32_t i = 0; i < e->input_count && code == TW_OK; i++) code = sort_input(run, i, &inputs[i]);
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) code = sort_output(run, i, outputs[i].bytes);
    if (code == TW_OK) code = reserve(run);
    if (code == TW_OK) code = begin(run);
    return code == TW_OK ? send_inputs(run) : code;
}

/* After the work is done, or a failure: nothing of the run stays in the stream, and what nobody gets is freed. */
static void finish(Run *run, int32_t code) {
    Stream *s = run->stream;
    if (s != NULL) {
        aclrtSynchronizeStream(s->own);
        s->host_busy = false;
        for (uint32_t i = 0; i < s->late_count; i++) twr_device_release(run->plan, NULL, s->late[i]);
        s->late_count = 0;
    }
    for (uint32_t i = 0; i < run->entry->output_count; i++) {
        Tensor *t = &run->out[i];
        if (t->memory.owned && t->wanted == SPACE_DEVICE) twr_device_release(run->plan, NULL, t->memory.data);
        else if (t->memory.owned) free(t->memory.data);
        if (code == TW_OK || !t->ours) continue;
        free(t->home);
        t->home = NULL;
    }
}

/* `memory` has room for what the executor is given, `dims` for the shapes of the outputs. */
static int32_t run_all(Run *run, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs, Memory *memory,
                       int64_t (*dims)[TW_MAX_RANK]) {
    const Entry *e = run->entry;
    int32_t code = start(run, layout, inputs, outputs);
    if (code == TW_OK) {
        Memory *out = memory + e->input_count;
        for (uint32_t i = 0; i < e->input_count; i++) memory[i] = run->in[i].memory;
        for (uint32_t i = 0; i < e->output_count; i++) {
            out[i] = run->out[i].memory;
            memcpy(dims[i], outputs[i].dim, sizeof dims[i]);
        }
        code = twr_execute(run->plan, run->context, entry, layout, 0, memory, out, dims);
        for (uint32_t i = 0; i < e->output_count; i++) run->out[i].memory = out[i];
        run->plan->device->direct++;
    }
    if (code == TW_OK) code = check_fault(run);
    if (code == TW_OK) code = fetch_outputs(run, dims);
    finish(run, code);
    for (uint32_t i = 0; i < e->output_count; i++) {
        outputs[i].data = run->out[i].home;
        if (code != TW_OK) continue;
        memcpy(outputs[i].dim, dims[i], sizeof dims[i]);
        outputs[i].bytes = run->out[i].bytes;
    }
    return code;
}

/* Runs to the end, with the device's context current and `pending->context` its own. */
int32_t twr_device_run(tw_pending *pending, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs,
                       const tw_run_options *options) {
    tw_plan *plan = pending->plan;
    const Entry *e = &plan->entries[entry];
    size_t in = e->input_count, out = e->output_count;
    size_t bytes = (in + out) * (sizeof(Tensor) + sizeof(Memory)) + out * sizeof(int64_t[TW_MAX_RANK]);
    if (options != NULL && (options->flags != 0 || options->after != NULL))
        return twr_fail(pending->context->error, TW_USAGE, "runs on Ascend devices take no streams, events or device outputs");
    Tensor *tensors = calloc(1, bytes + 1);
    if (tensors == NULL) return twr_fail(pending->context->error, TW_RESOURCE, "no memory for the run");
    Memory *memory = (Memory *)(tensors + in + out);
    int64_t(*dims)[TW_MAX_RANK] = (int64_t(*)[TW_MAX_RANK])(memory + in + out);
    Run run = {plan, pending->context, NULL, e, tensors, tensors + in, 0, 0};
    int32_t code = run_all(&run, entry, layout, inputs, outputs, memory, dims);
    free(tensors);
    return code;
}

int32_t twr_device_done(tw_pending *pending, tw_error *error) {
    (void)pending, (void)error;
    return 1;
}

int32_t twr_device_wait(tw_pending *pending, tw_error *error) {
    (void)pending, (void)error;
    return TW_OK;
}
