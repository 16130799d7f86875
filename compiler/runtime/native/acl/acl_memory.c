/* Memory of a run on an Ascend device: the weights, a stream, blocks that grow, and errors that say how much there was. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

static int32_t no_memory(const tw_plan *plan, aclError result, size_t bytes, const char *what, tw_error *error) {
    tw_device about;
    twr_device_free_memory(plan, &about);
    const char *said = aclGetRecentErrMsg();
    return twr_fail(error, TW_RESOURCE,
                    "no device memory on %s: %s asked for %zu bytes, %" PRId64 " are free of %" PRId64
                    " (aclrtMalloc failed with code %d%s%.300s). Use smaller inputs, end other work on the device, or take a larger one",
                    about.name, what, bytes, about.free_bytes, about.total_bytes, (int)result, said != NULL ? ": " : "",
                    said != NULL ? said : "");
}

/* Device memory; at least a few bytes, so that every buffer has an address. */
int32_t twr_device_allocate(const tw_plan *plan, void **memory, int64_t bytes, const char *what, tw_error *error) {
    size_t size = bytes > IO_ALIGNMENT ? (size_t)bytes : IO_ALIGNMENT;
    aclError result = aclrtMalloc(memory, size, ACL_MEM_MALLOC_HUGE_FIRST);
    if (result == ACL_SUCCESS) return TW_OK;
    *memory = NULL;
    return no_memory(plan, result, size, what, error);
}

/* Frees device memory once the stream's work is done with it. */
void twr_device_release(const tw_plan *plan, const Stream *stream, void *memory) {
    (void)plan;
    if (memory == NULL) return;
    if (stream != NULL) aclrtSynchronizeStream(stream->own);
    aclrtFree(memory);
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
    (void)plan;
    if (block->data != NULL && bytes <= block->bytes) return TW_OK;
    if (block->data != NULL) {
        aclrtSynchronizeStream(stream->own);
        aclrtFreeHost(block->data);
    }
    *block = (Block){NULL, 0};
    aclError result = aclrtMallocHost(&block->data, bytes ? bytes : 1);
    if (result != ACL_SUCCESS) {
        block->data = NULL;
        return twr_fail(error, TW_RESOURCE, "no page-locked memory on the host: %s asked for %zu bytes (aclrtMallocHost failed with code %d)",
                        what, bytes, (int)result);
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

/* -- weights ------------------------------------------------------------------------------------------------------ */

/* Marks the constants that launches and copies on the device read. */
static void find_used(const tw_plan *plan, bool *used) {
    for (uint32_t n = 0; n < plan->entry_count; n++) {
        const Entry *e = &plan->entries[n];
        for (uint32_t i = 0; i < e->buffer_count; i++)
            if (e->buffers[i].kind == BUFFER_CONSTANT && e->buffers[i].base == NONE && e->buffers[i].space == SPACE_DEVICE)
                used[e->buffers[i].index] = true;
    }
}

static int32_t copy_weights(const tw_plan *plan, const int64_t *place, tw_error *error) {
    for (uint32_t i = 0; i < plan->constant_count; i++) {
        const Constant *c = &plan->constants[i];
        if (place[i] < 0) continue;
        plan->device->constants[i] = (char *)plan->device->weights + place[i];
        if (c->bytes > 0)
            ACL(error, aclrtMemcpy, c->name, plan->device->constants[i], (size_t)c->bytes, c->data, (size_t)c->bytes, ACL_MEMCPY_HOST_TO_DEVICE);
    }
    return TW_OK;
}

/* Brings the constants that are read there to the device, each once. */
int32_t twr_upload_weights(tw_plan *plan, tw_error *error) {
    Device *device = plan->device;
    device->constants = twr_own(plan, (size_t)plan->constant_count + 1, sizeof *device->constants);
    bool *used = calloc((size_t)plan->constant_count + 1, sizeof *used);
    int64_t *place = calloc((size_t)plan->constant_count + 1, sizeof *place), end = 0;
    int32_t code = TW_OK;
    if (device->constants == NULL || used == NULL || place == NULL) {
        code = twr_fail(error, TW_RESOURCE, "no memory for the list of weights");
    } else {
        find_used(plan, used);
        for (uint32_t i = 0; i < plan->constant_count; i++) {
            place[i] = used[i] ? end : -1;
            if (used[i]) end += (plan->constants[i].bytes + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT;
        }
        device->weight_bytes = end;
        if (end > 0) code = twr_device_allocate(plan, &device->weights, end, "the weights", error);
        if (code == TW_OK) code = copy_weights(plan, place, error);
    }
    free(used);
    free(place);
    return code;
}

/* -- streams ------------------------------------------------------------------------------------------------------ */

static int32_t make_stream(const tw_plan *plan, Stream *s, tw_error *error) {
    void *memory = NULL;
    ACL(error, aclrtCreateStream, "a run", &s->own);
    ACL(error, aclrtMallocHost, "the words of a run", &memory, 64);
    s->scalar = memset(memory, 0, 64);
    int32_t code = twr_device_allocate(plan, &memory, sizeof *s->fault, "the word for faults", error);
    if (code == TW_OK) s->fault = memory;
    return code;
}

/* The device's side of a context, made at first. */
int32_t twr_device_stream(const tw_plan *plan, Context *context, tw_error *error) {
    if (context->stream != NULL) return TW_OK;
    context->stream = calloc(1, sizeof *context->stream);
    if (context->stream == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the run");
    int32_t code = make_stream(plan, context->stream, error);
    if (code != TW_OK) twr_device_forget_stream(plan, context);
    return code;
}

/* Frees the device's side of a context, its work done first. */
void twr_device_forget_stream(const tw_plan *plan, Context *context) {
    Stream *s = context->stream;
    if (s == NULL) return;
    if (twr_device_enter(plan, NULL) == TW_OK) {
        if (s->own != NULL) aclrtSynchronizeStream(s->own);
        for (int i = 0; i < CALL_LIMIT; i++) {
            if (s->arena[SPACE_DEVICE][i].data != NULL) aclrtFree(s->arena[SPACE_DEVICE][i].data);
            if (s->arena[SPACE_HOST][i].data != NULL) aclrtFreeHost(s->arena[SPACE_HOST][i].data);
        }
        if (s->workspace.data != NULL) aclrtFree(s->workspace.data);
        if (s->io.data != NULL) aclrtFree(s->io.data);
        if (s->pinned.data != NULL) aclrtFreeHost(s->pinned.data);
        for (uint32_t i = 0; i < s->late_count; i++) aclrtFree(s->late[i]);
        if (s->fault != NULL) aclrtFree(s->fault);
        if (s->scalar != NULL) aclrtFreeHost(s->scalar);
        if (s->own != NULL) aclrtDestroyStream(s->own);
    }
    free(s->late);
    free(s);
    context->stream = NULL;
}

/* Device memory that a context holds. */
int64_t twr_stream_bytes(const Stream *s) {
    size_t bytes = s->workspace.bytes + s->io.bytes;
    for (int i = 0; i < CALL_LIMIT; i++) bytes += s->arena[SPACE_DEVICE][i].bytes;
    return (int64_t)bytes;
}

uint32_t twr_stream_graphs(const Stream *s) {
    (void)s;
    return 0;
}
