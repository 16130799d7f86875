/* Memory of a run on a GPU: streams, blocks that grow, and errors that say how much there was. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define PINNED_FLAGS (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP)

static int32_t no_memory(const tw_plan *plan, CUresult result, const char *call, size_t bytes, const char *what, tw_error *error) {
    if (result != CUDA_ERROR_OUT_OF_MEMORY) return twr_driver_fail(&plan->device->driver, result, call, what, error);
    tw_device about;
    twr_device_free_memory(plan, &about);
    return twr_fail(error, TW_RESOURCE,
                    "not enough memory on %s: %s asked for %zu bytes, %" PRId64 " are free of %" PRId64
                    ". Use smaller inputs, end other work on the GPU, or take a larger one",
                    about.name, what, bytes, about.free_bytes, about.total_bytes);
}

/* Device memory; at least a few bytes, so that every buffer has an address. */
int32_t twr_device_allocate(const tw_plan *plan, void **memory, int64_t bytes, const char *what, tw_error *error) {
    CUdeviceptr address = 0;
    size_t size = bytes > IO_ALIGNMENT ? (size_t)bytes : IO_ALIGNMENT;
    CUresult result = plan->device->driver.cuMemAlloc_v2(&address, size);
    if (result != CUDA_SUCCESS) return no_memory(plan, result, "cuMemAlloc", size, what, error);
    *memory = (void *)(uintptr_t)address;
    return TW_OK;
}

/* Frees device memory once the stream's work is done with it. */
void twr_device_release(const tw_plan *plan, const Stream *stream, void *memory) {
    const Driver *d = &plan->device->driver;
    if (memory == NULL) return;
    if (stream != NULL) d->cuStreamSynchronize(stream->now);
    d->cuMemFree_v2((CUdeviceptr)(uintptr_t)memory);
}

int32_t twr_device_grow(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error) {
    if (block->data != NULL && bytes <= block->bytes) return TW_OK;
    twr_device_release(plan, stream, block->data);
    *block = (Block){NULL, 0};
    if (bytes > INT64_MAX) return twr_fail(error, TW_RESOURCE, "%s needs more memory than can be addressed", what);
    int32_t code = twr_device_allocate(plan, &block->data, (int64_t)bytes, what, error);
    if (code == TW_OK) block->bytes = bytes;
    return code;
}

/* The same in page-locked memory of the host. */
int32_t twr_device_pin(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error) {
    const Driver *d = &plan->device->driver;
    if (block->data != NULL && bytes <= block->bytes) return TW_OK;
    if (block->data != NULL) {
        d->cuStreamSynchronize(stream->now);
        d->cuMemFreeHost(block->data);
    }
    *block = (Block){NULL, 0};
    CUresult result = d->cuMemHostAlloc(&block->data, bytes ? bytes : 1, PINNED_FLAGS);
    if (result != CUDA_SUCCESS) {
        block->data = NULL;
        if (result == CUDA_ERROR_OUT_OF_MEMORY)
            return twr_fail(error, TW_RESOURCE, "not enough page-locked memory on the host: %s asked for %zu bytes. Use smaller inputs", what,
                            bytes);
        return twr_driver_fail(d, result, "cuMemHostAlloc", what, error);
    }
    block->bytes = bytes;
    return TW_OK;
}

/* The temporaries of both spaces. */
int32_t twr_device_arena(const tw_plan *plan, Context *context, uint32_t depth, const Layout *layout, void **arena) {
    Stream *s = context->stream;
    Block *device = &s->arena[SPACE_DEVICE][depth], *host = &s->arena[SPACE_HOST][depth];
    int32_t code = twr_device_grow(plan, s, device, (size_t)layout->arena_bytes[SPACE_DEVICE], "the temporaries", context->error);
    if (code == TW_OK)
        code = twr_device_pin(plan, s, host, (size_t)layout->arena_bytes[SPACE_HOST], "the temporaries of the host", context->error);
    arena[SPACE_DEVICE] = device->data;
    arena[SPACE_HOST] = host->data;
    return code;
}

static int32_t make_stream(const tw_plan *plan, Stream *s, tw_error *error) {
    const Driver *d = &plan->device->driver;
    void *memory = NULL;
    CUDA(d, error, cuStreamCreate, "", &s->own, CU_STREAM_NON_BLOCKING);
    s->now = s->own;
    CUDA(d, error, cuEventCreate, "", &s->end, CU_EVENT_DISABLE_TIMING);
    CUDA(d, error, cuMemHostAlloc, "the words of a run", &memory, 64, PINNED_FLAGS);
    s->scalar = memset(memory, 0, 64);
    s->fault = (int32_t *)(s->scalar + 1);
    CUDA(d, error, cuMemHostGetDevicePointer_v2, "the words of a run", &s->fault_device, s->fault, 0);
    return TW_OK;
}

/* Frees outputs' device memory of a run that is done. */
void twr_free_late(const tw_plan *plan, Stream *s) {
    for (uint32_t i = 0; i < s->late_count; i++) twr_device_release(plan, NULL, s->late[i]);
    s->late_count = 0;
}

/* Waits until the run before, which nobody waited for, is done with the context's memory. */
int32_t twr_device_rest(const tw_plan *plan, Stream *s, tw_error *error) {
    if (s->in_flight) CUDA(&plan->device->driver, error, cuEventSynchronize, "the run before", s->end);
    s->in_flight = false;
    *s->fault = 0;
    twr_free_late(plan, s);
    return TW_OK;
}

/* The device's side of a context, made at first. A run that nobody waited for may still go on in it. */
int32_t twr_device_stream(const tw_plan *plan, Context *context, tw_error *error) {
    Stream *s = context->stream;
    if (s == NULL) {
        s = context->stream = calloc(1, sizeof *s);
        if (s == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the run");
        s->graphs = calloc((size_t)plan->device->graph_limit + NOTE_LIMIT, sizeof *s->graphs);
        int32_t code = s->graphs != NULL ? make_stream(plan, s, error) : twr_fail(error, TW_RESOURCE, "no memory for the run");
        if (code != TW_OK) {
            twr_device_forget_stream(plan, context);
            return code;
        }
    }
    s->host_busy = false;
    s->now = s->own;
    return TW_OK;
}

static void free_block(const Driver *d, Block *block, bool pinned) {
    if (block->data == NULL) return;
    if (pinned) d->cuMemFreeHost(block->data);
    else d->cuMemFree_v2((CUdeviceptr)(uintptr_t)block->data);
    *block = (Block){NULL, 0};
}

/* Frees the device's side of a context, its work done first. */
void twr_device_forget_stream(const tw_plan *plan, Context *context) {
    Stream *s = context->stream;
    const Driver *d = &plan->device->driver;
    if (s == NULL) return;
    if (twr_device_enter(plan, NULL) == TW_OK) {
        if (s->in_flight) d->cuEventSynchronize(s->end);
        twr_forget_graphs(plan, s);
        for (int i = 0; i < CALL_LIMIT; i++) {
            free_block(d, &s->arena[SPACE_DEVICE][i], false);
            free_block(d, &s->arena[SPACE_HOST][i], true);
        }
        Block *blocks[] = {&s->workspace, &s->global, &s->io};
        for (int i = 0; i < 3; i++) free_block(d, blocks[i], false);
        free_block(d, &s->pinned, true);
        free_block(d, &s->host_io, true);
        twr_free_late(plan, s);
        for (uint32_t i = 0; i < s->mark_count; i++) d->cuEventDestroy_v2(s->marks[i]);
        for (int i = 0; i < 2; i++)
            if (s->times[i] != NULL) d->cuEventDestroy_v2(s->times[i]);
        if (s->scalar != NULL) d->cuMemFreeHost(s->scalar);
        if (s->end != NULL) d->cuEventDestroy_v2(s->end);
        if (s->own != NULL) d->cuStreamDestroy_v2(s->own);
        twr_device_leave(plan);
    }
    free(s->graphs);
    free(s->marks);
    free(s->late);
    free(s);
    context->stream = NULL;
}

/* Device memory that a context holds. */
int64_t twr_stream_bytes(const Stream *s) {
    size_t bytes = s->workspace.bytes + s->global.bytes + s->io.bytes;
    for (int i = 0; i < CALL_LIMIT; i++) bytes += s->arena[SPACE_DEVICE][i].bytes;
    return (int64_t)bytes;
}

/* Graphs that a context keeps; shapes seen once have none. */
uint32_t twr_stream_graphs(const Stream *s) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->graph_count; i++) count += s->graphs[i].exec != NULL;
    return count;
}
