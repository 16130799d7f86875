/* One run on a GPU: brings inputs to where the plan wants them, runs, and brings outputs to where the caller wants them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define STAGED_MOST ((int64_t)4 << 20) /* larger pageable tensors are left to the driver, which pipelines such copies */

enum { ON_HOST, PINNED, ON_DEVICE };

/* A tensor of the caller, and what stands for it in the run. */
typedef struct {
    Memory memory;          /* what the executor is given */
    void *home;             /* the caller's memory, or what we allocated for an output */
    int64_t bytes, room;    /* -1: known only after the run; what `home` can hold */
    uint32_t wanted, place; /* space of the plan; ON_HOST, PINNED or ON_DEVICE of `home` */
    bool staged, late, ours;
    size_t io, pin;         /* offsets in the blocks of the stream */
} Tensor;

typedef struct {
    tw_plan *plan;
    Context *context;
    Stream *stream;
    const Entry *entry;
    Tensor *in, *out;
    const tw_run_options *options;
    tw_pending *pending;
    size_t io_bytes, pin_bytes, host_bytes;
} Run;

#define ERROR(run) ((run)->context->error)

static bool flag(const Run *run, uint32_t bit) { return run->options != NULL && run->options->flags & bit; }

/* Where memory lies. Memory that the driver does not know is the host's. */
static int32_t locate(const Run *run, const void *data, const char *name, uint32_t *place) {
    unsigned type = 0, managed = 0;
    int ordinal = -1;
    int attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void *values[] = {&type, &managed, &ordinal};
    const Device *device = run->plan->device;
    CUDA(&device->driver, ERROR(run), cuPointerGetAttributes, name, 3, attributes, values, (CUdeviceptr)(uintptr_t)data);
    *place = type == CU_MEMORYTYPE_DEVICE || managed ? ON_DEVICE : type == CU_MEMORYTYPE_HOST ? PINNED : ON_HOST;
    if (*place == ON_DEVICE && !managed && ordinal != device->about.index)
        return twr_fail(ERROR(run), TW_USAGE, "'%s' lies on GPU %d, the model is on GPU %d: move one of them", name, ordinal,
                        device->about.index);
    return TW_OK;
}

static size_t take(size_t *used, int64_t bytes) {
    size_t at = *used;
    *used += ((size_t)bytes + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT;
    return at;
}

static bool aligned(const void *data) { return (uintptr_t)data % POINTER_ALIGNMENT == 0; }

/* -- what is where ------------------------------------------------------------------------------------------------ */

static int32_t check_elements(const Run *run, const Tensor *t, const tw_signature *s, const char *side) {
    uint32_t width = (uint32_t)twr_element_bits(s->dtype) / 8;
    if (width > 1 && t->home != NULL && (uintptr_t)t->home % width != 0)
        return twr_fail(ERROR(run), TW_USAGE, "%s '%s' is not aligned to its elements", side, s->name);
    return TW_OK;
}

static int32_t sort_input(Run *run, uint32_t i, const tw_tensor *given) {
    const Signature *s = &run->entry->inputs[i];
    Tensor *t = &run->in[i];
    if (!twr_tensor_bytes(given->dtype, given->dim, given->rank, &t->bytes) || (given->data == NULL && t->bytes > 0))
        return twr_fail(ERROR(run), TW_USAGE, "input '%s' has no memory", s->text.name);
    t->home = given->data;
    t->wanted = s->space == NONE ? SPACE_HOST : s->space;
    int32_t code = t->bytes > 0 ? locate(run, given->data, s->text.name, &t->place) : TW_OK;
    if (code == TW_OK && t->bytes > 0) code = check_elements(run, t, &s->text, "input");
    if (code != TW_OK) return code;
    if (t->wanted == SPACE_DEVICE) t->staged = t->bytes == 0 || t->place != ON_DEVICE || !aligned(t->home);
    else t->staged = t->bytes == 0 || t->place == ON_DEVICE;
    if (!t->staged) t->memory = (Memory){t->home, t->bytes, false};
    else if (t->wanted == SPACE_HOST) t->io = take(&run->host_bytes, t->bytes);
    else t->io = take(&run->io_bytes, t->bytes);
    if (t->staged && t->wanted == SPACE_DEVICE && t->place == ON_HOST && t->bytes <= STAGED_MOST) t->pin = take(&run->pin_bytes, t->bytes);
    return TW_OK;
}

/* Memory of our own for an output of known size. */
static int32_t allocate_home(Run *run, Tensor *t, const char *name) {
    t->ours = true;
    t->room = t->bytes;
    t->place = flag(run, TW_RUN_DEVICE_OUTPUTS) ? ON_DEVICE : ON_HOST;
    if (t->place == ON_DEVICE) return twr_device_allocate(run->plan, &t->home, t->bytes, name, ERROR(run));
    t->home = twr_aligned((size_t)t->bytes);
    return t->home != NULL ? TW_OK : twr_fail(ERROR(run), TW_RESOURCE, "no memory for output '%s'", name);
}

static int32_t check_room(const Run *run, const Tensor *t, const char *name) {
    if (t->home == NULL || t->bytes <= t->room) return TW_OK;
    return twr_fail(ERROR(run), TW_USAGE, "output '%s' needs %" PRId64 " bytes, the memory given has %" PRId64, name, t->bytes, t->room);
}

/* Its `home` and `room` are set. */
static int32_t sort_output(Run *run, uint32_t i, int64_t bytes) {
    const Signature *s = &run->entry->outputs[i];
    Tensor *t = &run->out[i];
    t->bytes = bytes;
    t->wanted = s->space == NONE ? SPACE_HOST : s->space;
    int32_t code = check_room(run, t, s->text.name);
    if (code == TW_OK && t->home != NULL) code = locate(run, t->home, s->text.name, &t->place);
    if (code == TW_OK && t->home == NULL && bytes >= 0) code = allocate_home(run, t, s->text.name);
    if (code == TW_OK) code = check_elements(run, t, &s->text, "output");
    if (code != TW_OK) return code;
    bool there = t->home != NULL && (t->place == ON_DEVICE) == (t->wanted == SPACE_DEVICE) && (t->wanted == SPACE_HOST || aligned(t->home));
    if (there) {
        t->memory = (Memory){t->home, bytes >= 0 ? bytes : t->room, false};
    } else if (bytes < 0) {
        t->late = true;
    } else {
        t->staged = true;
        t->io = take(t->wanted == SPACE_HOST ? &run->host_bytes : &run->io_bytes, bytes);
        if (t->place == ON_HOST && t->wanted == SPACE_DEVICE && bytes <= STAGED_MOST) t->pin = take(&run->pin_bytes, bytes);
    }
    return TW_OK;
}

static int32_t reserve(Run *run) {
    Stream *s = run->stream;
    int32_t code = TW_OK;
    if (run->io_bytes > 0 || s->io.data == NULL)
        code = twr_device_grow(run->plan, s, &s->io, run->io_bytes + IO_ALIGNMENT, "the inputs and outputs", ERROR(run));
    if (code == TW_OK && run->pin_bytes > 0) code = twr_device_pin(run->plan, s, &s->pinned, run->pin_bytes, "staging", ERROR(run));
    if (code == TW_OK) code = twr_device_pin(run->plan, s, &s->host_io, run->host_bytes + IO_ALIGNMENT, "staging", ERROR(run));
    if (code != TW_OK) return code;
    Tensor *sides[] = {run->in, run->out};
    const uint32_t counts[] = {run->entry->input_count, run->entry->output_count};
    for (int side = 0; side < 2; side++)
        for (uint32_t i = 0; i < counts[side]; i++) {
            Tensor *t = &sides[side][i];
            char *base = t->wanted == SPACE_HOST ? s->host_io.data : s->io.data;
            if (t->staged) t->memory = (Memory){base + t->io, t->bytes, false};
        }
    return TW_OK;
}

/* -- in and out --------------------------------------------------------------------------------------------------- */

static int32_t copy(Run *run, void *to, uint32_t to_space, const void *from, uint32_t from_space, int64_t bytes) {
    return twr_device_copy(run->plan, run->context, to, to_space, from, from_space, (size_t)bytes);
}

static int32_t send_input(Run *run, Tensor *t) {
    const void *from = t->home;
    if (!t->staged || t->bytes == 0) return TW_OK;
    if (t->wanted == SPACE_DEVICE && t->place == ON_HOST && t->bytes <= STAGED_MOST)
        from = memcpy((char *)run->stream->pinned.data + t->pin, from, (size_t)t->bytes);
    return copy(run, t->memory.data, t->wanted, from, t->place == ON_DEVICE ? SPACE_DEVICE : SPACE_HOST, t->bytes);
}

static int32_t send_inputs(Run *run) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->state_count; i++) { /* a state on the host is brought to where it will be changed */
        Tensor *in = &run->in[e->states[2 * i]], *out = &run->out[e->states[2 * i + 1]];
        if (in->staged && out->memory.data != NULL && out->memory.bytes >= in->bytes) in->memory.data = out->memory.data;
    }
    for (uint32_t i = 0; i < e->input_count; i++) {
        int32_t code = send_input(run, &run->in[i]);
        if (code != TW_OK) return code;
    }
    return TW_OK;
}

static void deliver_later(Run *run, void *to, const void *from, int64_t bytes, bool from_device) {
    run->pending->deliveries[run->pending->delivery_count++] = (Delivery){to, from, bytes, from_device};
}

/* Device memory that is freed once the run is done. */
static int32_t keep_until_done(Run *run, void *memory) {
    Stream *s = run->stream;
    void **grown = realloc(s->late, (s->late_count + 1) * sizeof *grown);
    if (grown == NULL) return twr_fail(ERROR(run), TW_RESOURCE, "no memory for the run");
    s->late = grown;
    s->late[s->late_count++] = memory;
    return TW_OK;
}

/* From where the run left an output to its home. */
static int32_t fetch(Run *run, Tensor *t) {
    const void *from = t->memory.data;
    if (t->bytes == 0) return TW_OK;
    if (t->wanted == SPACE_HOST || t->place != ON_HOST)
        return copy(run, t->home, t->place == ON_DEVICE ? SPACE_DEVICE : SPACE_HOST, from, t->wanted, t->bytes);
    if (t->late || t->bytes > STAGED_MOST) {
        deliver_later(run, t->home, from, t->bytes, true);
        return TW_OK;
    }
    void *pinned = (char *)run->stream->pinned.data + t->pin;
    deliver_later(run, t->home, pinned, t->bytes, false);
    return copy(run, pinned, SPACE_HOST, from, SPACE_DEVICE, t->bytes);
}

/* An output that the executor allocated, because its size was known only then. */
static int32_t fetch_late(Run *run, Tensor *t, const char *name) {
    bool device = t->wanted == SPACE_DEVICE;
    Memory found = t->memory;
    int32_t code = check_room(run, t, name);
    if (code == TW_OK && t->home == NULL && flag(run, TW_RUN_DEVICE_OUTPUTS) == device) {
        t->home = found.data; /* it is where the caller wants it */
        t->place = device ? ON_DEVICE : ON_HOST;
        t->ours = true;
        t->memory.owned = false;
        return TW_OK;
    }
    if (code == TW_OK && t->home == NULL) code = allocate_home(run, t, name);
    if (code == TW_OK) code = fetch(run, t);
    if (device) {
        if (keep_until_done(run, found.data) == TW_OK) t->memory.owned = false;
    } else {
        if (code == TW_OK) code = twr_device_settle(run->plan, run->context);
        free(found.data);
        t->memory.owned = false;
    }
    return code;
}

static int32_t fetch_outputs(Run *run, int64_t (*dims)[TW_MAX_RANK]) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->output_count; i++) {
        Tensor *t = &run->out[i];
        const tw_signature *s = &e->outputs[i].text;
        twr_tensor_bytes(s->dtype, dims[i], s->rank, &t->bytes); /* the executor saw that it fits */
        int32_t code = t->late ? fetch_late(run, t, s->name) : t->staged ? fetch(run, t) : TW_OK;
        if (code != TW_OK) return code;
    }
    return TW_OK;
}

/* -- the run ------------------------------------------------------------------------------------------------------ */

/* A run before may still go on in this context. What touches nothing on the host is put behind it on the device; for
 * anything else the host waits. */
static int32_t follow(Run *run) {
    Stream *s = run->stream;
    bool apart = run->entry->replayable && run->context->profile == NULL && run->pin_bytes == 0 && run->host_bytes == 0 &&
                 s->late_count == 0 && run->io_bytes + IO_ALIGNMENT <= s->io.bytes;
    if (!s->in_flight || !apart) return twr_device_rest(run->plan, s, ERROR(run));
    CUDA(&run->plan->device->driver, ERROR(run), cuStreamWaitEvent, "the run before", s->now, s->end, 0);
    return TW_OK;
}

static int32_t begin(Run *run) {
    const Driver *d = &run->plan->device->driver;
    Stream *s = run->stream;
    const tw_run_options *o = run->options;
    s->timed = flag(run, TW_RUN_TIMED);
    s->launches = 0;
    if (o != NULL && o->after != NULL) CUDA(d, ERROR(run), cuStreamWaitEvent, "the event given", s->now, o->after, 0);
    if (!s->timed) return TW_OK;
    for (int i = 0; i < 2; i++)
        if (s->times[i] == NULL) CUDA(d, ERROR(run), cuEventCreate, "", &s->times[i], CU_EVENT_DEFAULT);
    CUDA(d, ERROR(run), cuEventRecord, "", s->times[0], s->now);
    return TW_OK;
}

static int32_t end(Run *run) {
    const Driver *d = &run->plan->device->driver;
    Stream *s = run->stream;
    if (s->timed) CUDA(d, ERROR(run), cuEventRecord, "", s->times[1], s->now);
    CUDA(d, ERROR(run), cuEventRecord, "", s->end, s->now);
    s->in_flight = true;
    return TW_OK;
}

/* A stream that the caller captures takes no part in a run, which looks after memory and waits for events. Nothing of that
 * may be done before this is known: it would spoil the capture. */
static int32_t check_stream(const Run *run) {
    int status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!flag(run, TW_RUN_ON_STREAM)) return TW_OK;
    CUDA(&run->plan->device->driver, ERROR(run), cuStreamIsCapturing, "the stream given", run->options->stream, &status);
    if (status != CU_STREAM_CAPTURE_STATUS_NONE)
        return twr_fail(ERROR(run), TW_USAGE, "the stream given is being captured into a graph: run the model outside of that. "
                                              "It makes CUDA graphs of its own");
    return TW_OK;
}

/* Sorts the caller's tensors and brings the inputs to where the plan wants them. */
static int32_t start(Run *run, const Layout *layout, const tw_tensor *inputs, tw_tensor *outputs) {
    const Entry *e = run->entry;
    for (uint32_t i = 0; i < e->output_count; i++) {
        run->out[i].home = outputs[i].data;
        run->out[i].room = outputs[i].bytes;
    }
    int32_t code = twr_describe_outputs(e, layout, outputs, ERROR(run));
    if (code == TW_OK) code = check_stream(run);
    if (code == TW_OK) code = twr_device_stream(run->plan, run->context, ERROR(run));
    if (code != TW_OK) return code;
    run->stream = run->context->stream;
    if (flag(run, TW_RUN_ON_STREAM)) run->stream->now = run->options->stream;
    for (uint32_t i = 0; i < e->input_count && code == TW_OK; i++) code = sort_input(run, i, &inputs[i]);
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) code = sort_output(run, i, outputs[i].bytes);
    if (code == TW_OK) code = follow(run);
    if (code == TW_OK) code = reserve(run);
    if (code == TW_OK) code = begin(run);
    return code == TW_OK ? send_inputs(run) : code;
}

/* After a failure: what was allocated is freed, once nothing in the stream uses it. */
static void abandon(Run *run) {
    if (run->stream == NULL) return;
    run->plan->device->driver.cuStreamSynchronize(run->stream->now);
    for (uint32_t i = 0; i < run->entry->output_count; i++) {
        Tensor *t = &run->out[i];
        if (t->memory.owned && t->wanted == SPACE_DEVICE) twr_device_release(run->plan, NULL, t->memory.data);
        else if (t->memory.owned) free(t->memory.data);
        if (!t->ours || t->home == NULL) continue;
        if (t->place == ON_DEVICE) twr_device_release(run->plan, NULL, t->home);
        else free(t->home);
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
        bool direct = flag(run, TW_RUN_DIRECT) || run->context->profile != NULL;
        code = twr_run_entry(run->plan, run->context, entry, layout, memory, out, dims, direct);
        for (uint32_t i = 0; i < e->output_count; i++) run->out[i].memory = out[i];
    }
    if (code == TW_OK) code = fetch_outputs(run, dims);
    if (code == TW_OK) code = end(run);
    if (code != TW_OK) abandon(run);
    for (uint32_t i = 0; i < e->output_count; i++) {
        outputs[i].data = run->out[i].home;
        if (code != TW_OK) continue;
        memcpy(outputs[i].dim, dims[i], sizeof dims[i]);
        outputs[i].bytes = run->out[i].bytes;
    }
    return code;
}

/* Starts a run with the device's context current and `pending->context` its own. */
int32_t twr_device_run(tw_pending *pending, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs,
                       const tw_run_options *options) {
    tw_plan *plan = pending->plan;
    const Entry *e = &plan->entries[entry];
    size_t in = e->input_count, out = e->output_count;
    size_t bytes = (in + out) * (sizeof(Tensor) + sizeof(Memory)) + out * sizeof(int64_t[TW_MAX_RANK]);
    Tensor *tensors = calloc(1, bytes + 1);
    pending->deliveries = calloc(out + 1, sizeof *pending->deliveries);
    int32_t code;
    if (tensors == NULL || pending->deliveries == NULL) {
        code = twr_fail(pending->context->error, TW_RESOURCE, "no memory for the run");
    } else {
        Memory *memory = (Memory *)(tensors + in + out);
        int64_t(*dims)[TW_MAX_RANK] = (int64_t(*)[TW_MAX_RANK])(memory + in + out);
        Run run = {plan, pending->context, NULL, e, tensors, tensors + in, options, pending, 0, 0, 0};
        code = run_all(&run, entry, layout, inputs, outputs, memory, dims);
    }
    free(tensors);
    return code;
}

/* -- afterwards --------------------------------------------------------------------------------------------------- */

int32_t twr_device_done(tw_pending *pending, tw_error *error) {
    const Driver *d = &pending->plan->device->driver;
    CUresult result = d->cuEventQuery(pending->context->stream->end);
    if (result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY) return result == CUDA_SUCCESS;
    return -twr_driver_fail(d, result, "cuEventQuery", pending->entry, error);
}

static int32_t deliver(const tw_pending *pending, tw_error *error) {
    const Driver *d = &pending->plan->device->driver;
    Stream *s = pending->context->stream;
    bool copied = false;
    for (uint32_t i = 0; i < pending->delivery_count; i++) {
        const Delivery *x = &pending->deliveries[i];
        if (x->from_device) {
            CUDA(d, error, cuMemcpyDtoHAsync_v2, "an output", x->to, (CUdeviceptr)(uintptr_t)x->from, (size_t)x->bytes, s->own);
            copied = true;
        } else {
            memcpy(x->to, x->from, (size_t)x->bytes);
        }
    }
    if (copied) CUDA(d, error, cuStreamSynchronize, "an output", s->own);
    return TW_OK;
}

/* Waits for the run and writes its outputs on the host, with the device's context current. */
int32_t twr_device_wait(tw_pending *pending, tw_error *error) {
    const tw_plan *plan = pending->plan;
    const Driver *d = &plan->device->driver;
    Stream *s = pending->context->stream;
    CUDA(d, error, cuEventSynchronize, pending->entry, s->end);
    s->in_flight = false;
    if (__atomic_exchange_n(s->fault, 0, __ATOMIC_RELAXED) != 0) /* or in a run before it that nobody waited for */
        return twr_fail(error, TW_USAGE, "entry '%s': an index in the inputs lies outside the tensor it selects from", pending->entry);
    int32_t code = deliver(pending, error);
    float milliseconds = 0;
    if (s->timed) {
        CUDA(d, error, cuEventElapsedTime, "", &milliseconds, s->times[0], s->times[1]);
        pending->seconds = 1e-3 * (double)milliseconds;
    }
    if (pending->context->profile != NULL) twr_collect_profile(plan, s, pending->context->profile);
    twr_free_late(plan, s);
    return code;
}
