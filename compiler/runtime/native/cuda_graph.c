/* Whole runs as CUDA graphs: one for each exact shape and set of addresses, the least recently used given up first.
 *
 * The first run of a key launches its kernels one by one, the second is captured while it launches nothing, then replayed,
 * as are all later ones. The key holds everything that the launches are made of: the entry point, the values of its
 * symbols, and the address of every input, output and block of memory. A captured run therefore repeats exactly what a
 * direct one would do. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

static void drop(const tw_plan *plan, GraphRecord *record) {
    if (record->exec != NULL) plan->device->driver.cuGraphExecDestroy(record->exec);
    free(record->key);
    memset(record, 0, sizeof *record);
}

void twr_forget_graphs(const tw_plan *plan, Stream *s) {
    for (uint32_t i = 0; i < s->graph_count; i++) drop(plan, &s->graphs[i]);
    s->graph_count = 0;
}

/* The words of a key, owned by the caller; NULL when there is no memory. */
static uint64_t *make_key(const tw_plan *plan, const Stream *s, uint32_t entry, const Layout *layout, const Memory *inputs,
                          const Memory *outputs, uint32_t *words) {
    const Entry *e = &plan->entries[entry];
    *words = 4 + e->symbol_count + e->input_count + e->output_count;
    uint64_t *key = malloc(*words * sizeof *key), *at = key;
    if (key == NULL) return NULL;
    *at++ = entry;
    *at++ = (uint64_t)(uintptr_t)s->arena[SPACE_DEVICE][0].data;
    *at++ = (uint64_t)(uintptr_t)s->workspace.data;
    *at++ = (uint64_t)(uintptr_t)s->global.data;
    for (uint32_t i = 0; i < e->symbol_count; i++) *at++ = (uint64_t)layout->symbol[i];
    for (uint32_t i = 0; i < e->input_count; i++) *at++ = (uint64_t)(uintptr_t)inputs[i].data;
    for (uint32_t i = 0; i < e->output_count; i++) *at++ = (uint64_t)(uintptr_t)outputs[i].data;
    return key;
}

static GraphRecord *find(Stream *s, const uint64_t *key, uint32_t words) {
    for (uint32_t i = 0; i < s->graph_count; i++) {
        GraphRecord *r = &s->graphs[i];
        if (r->key_words != words || memcmp(r->key, key, words * sizeof *key) != 0) continue;
        r->stamp = ++s->clock;
        return r;
    }
    return NULL;
}

/* Gives up the least recently used of the graphs, or of the notes, when there are `limit`. */
static void make_room(const tw_plan *plan, Stream *s, bool graphs, uint32_t limit) {
    uint32_t count = 0, oldest = 0;
    for (uint32_t i = 0; i < s->graph_count; i++) {
        if ((s->graphs[i].exec != NULL) != graphs) continue;
        if (count++ == 0 || s->graphs[i].stamp < s->graphs[oldest].stamp) oldest = i;
    }
    if (count < limit) return;
    drop(plan, &s->graphs[oldest]);
    s->graphs[oldest] = s->graphs[--s->graph_count];
}

/* Notes that a key was run; `key` becomes the record's. Notes are counted apart, so that shapes that never come again do
 * not drive out the graphs of those that do. */
static void remember(const tw_plan *plan, Stream *s, uint64_t *key, uint32_t words) {
    make_room(plan, s, false, NOTE_LIMIT);
    s->graphs[s->graph_count++] = (GraphRecord){key, words, ++s->clock, NULL, 0, 0, 0};
}

/* The workspace has what the plan's launches of this shape need, so that nothing is allocated while a graph is captured. */
static int32_t reserve(const tw_plan *plan, Context *context, const Layout *layout) {
    Stream *s = context->stream;
    void *arena[SPACES];
    int32_t code = twr_device_arena(plan, context, 0, layout, arena);
    if (code == TW_OK && layout->scratch_bytes > 0 && (size_t)layout->scratch_bytes > s->workspace.bytes) {
        code = twr_device_grow(plan, s, &s->workspace, (size_t)layout->scratch_bytes, "the workspace", context->error);
        s->clean = 0;
    }
    if (code == TW_OK && layout->global_bytes > 0)
        code = twr_device_grow(plan, s, &s->global, (size_t)layout->global_bytes + IO_ALIGNMENT, "the scratch of a kernel", context->error);
    return code;
}

static void begin_book(Stream *s) {
    s->relies = s->cleans = 0;
    s->floor = SIZE_MAX;
}

/* Captures a run and makes a graph of it, where there is memory for one. Nothing runs meanwhile. */
static int32_t capture(tw_plan *plan, Context *context, uint32_t entry, Layout *layout, const Memory *inputs, Memory *outputs,
                       GraphRecord *record) {
    const Driver *d = &plan->device->driver;
    Stream *s = context->stream;
    CUstream target = s->now;
    size_t clean = s->clean;
    CUgraph graph = NULL;
    CUDA(d, context->error, cuStreamBeginCapture_v2, "", s->own, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    s->now = s->own;
    begin_book(s);
    int32_t code = twr_execute(plan, context, entry, layout, 0, inputs, outputs, NULL);
    CUresult result = d->cuStreamEndCapture(s->own, &graph);
    s->now = target;
    s->clean = clean;
    if (code == TW_OK && result != CUDA_SUCCESS)
        code = twr_driver_fail(d, result, "cuStreamEndCapture", "it can be done without graphs (TW_NO_GRAPHS)", context->error);
    if (code == TW_OK && (result = d->cuGraphInstantiateWithFlags(&record->exec, graph, 0)) != CUDA_SUCCESS) {
        record->exec = NULL;
        if (result != CUDA_ERROR_OUT_OF_MEMORY) code = twr_driver_fail(d, result, "cuGraphInstantiate", "it can be done without graphs (TW_NO_GRAPHS)", context->error);
    }
    if (graph != NULL) d->cuGraphDestroy(graph);
    record->relies = s->relies;
    record->cleans = s->cleans;
    record->floor = s->floor;
    return code;
}

static int32_t replay(tw_plan *plan, Context *context, const GraphRecord *record) {
    const Driver *d = &plan->device->driver;
    Stream *s = context->stream;
    if (s->clean < record->relies) {
        CUDA(d, context->error, cuMemsetD8Async, "counters", (CUdeviceptr)(uintptr_t)s->workspace.data, 0, record->relies, s->now);
        s->clean = record->relies;
    }
    CUDA(d, context->error, cuGraphLaunch, plan->entries[record->key[0]].name, record->exec, s->now);
    if (s->clean < record->cleans) s->clean = record->cleans;
    if (s->clean > record->floor) s->clean = record->floor;
    return TW_OK;
}

/* Runs an entry point whose inputs are where the plan wants them: directly, or through a graph. */
int32_t twr_run_entry(tw_plan *plan, Context *context, uint32_t entry, Layout *layout, const Memory *inputs, Memory *outputs,
                      int64_t (*out_dims)[TW_MAX_RANK], bool direct) {
    Device *device = plan->device;
    Stream *s = context->stream;
    int32_t code = reserve(plan, context, layout);
    if (code != TW_OK) return code;
    uint32_t words = 0;
    uint64_t *key = NULL;
    GraphRecord *record = NULL;
    if (!direct && plan->entries[entry].replayable && !(device->flags & TW_NO_GRAPHS)) {
        key = make_key(plan, s, entry, layout, inputs, outputs, &words);
        if (key != NULL) record = find(s, key, words);
    }
    if (record == NULL) {
        begin_book(s);
        code = twr_execute(plan, context, entry, layout, 0, inputs, outputs, out_dims);
        device->direct++;
        if (code == TW_OK && key != NULL) remember(plan, s, key, words);
        else free(key);
        return code;
    }
    if (record->exec != NULL) {
        free(key);
        device->replayed++;
        return replay(plan, context, record);
    }
    make_room(plan, s, true, device->graph_limit);
    record = find(s, key, words); /* it may have moved */
    free(key);
    code = capture(plan, context, entry, layout, inputs, outputs, record);
    if (code != TW_OK) return code;
    if (record->exec != NULL) {
        device->captured++;
        return replay(plan, context, record);
    }
    device->direct++;
    begin_book(s);
    return twr_execute(plan, context, entry, layout, 0, inputs, outputs, out_dims);
}
