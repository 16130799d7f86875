/* Puts the work of a run into its stream: kernels, copies, and what the host must wait for. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

int32_t twr_device_launch(const tw_plan *plan, Context *context, const Entry *e, uint32_t kernel, void *const *buffers,
                          const int64_t *dims, int64_t grid, int64_t scratch) {
    Stream *s = context->stream;
    const tw_launch_entry *k = &plan->device->launches->kernel[kernel];
    int64_t blocks = grid * k->blocks;
    if (grid > INT32_MAX || blocks > 65535)
        return twr_fail(context->error, TW_ARTIFACT, "entry '%s': kernel '%s' has %" PRId64 " blocks, a launch takes 65535", e->name, k->name, blocks);
    if (k->workspace) {
        int32_t code = twr_device_grow(plan, s, &s->workspace, (size_t)scratch, "the workspace", context->error);
        if (code != TW_OK) return code;
    }
    uint32_t result = k->launch((uint32_t)blocks, s->own, buffers, s->workspace.data, s->fault, dims);
    return result == 0 ? TW_OK : twr_acl_fail(context->error, (aclError)result, "the launch", k->name);
}

/* Waits until the stream's work no longer reads or writes memory of the host. */
int32_t twr_device_settle(const tw_plan *plan, Context *context) {
    (void)plan;
    Stream *s = context->stream;
    if (!s->host_busy) return TW_OK;
    ACL(context->error, aclrtSynchronizeStream, "a step on the host", s->own);
    s->host_busy = false;
    return TW_OK;
}

static bool is_within(const Block *block, const void *data, size_t bytes) {
    const char *start = block->data, *at = data;
    return start != NULL && at >= start && at + bytes <= start + block->bytes;
}

/* Whether the stream may read or write memory of the host while the host goes on: only what is page-locked. */
static bool is_pinned(const Stream *s, const void *data, size_t bytes) {
    for (int i = 0; i < CALL_LIMIT; i++)
        if (is_within(&s->arena[SPACE_HOST][i], data, bytes)) return true;
    return is_within(&s->pinned, data, bytes);
}

/* Between host and device; memory that is not page-locked is copied at once, after what the stream still does. */
static int32_t cross(Context *context, void *to, const void *from, size_t bytes, aclrtMemcpyKind kind) {
    Stream *s = context->stream;
    const void *host = kind == ACL_MEMCPY_HOST_TO_DEVICE ? from : to;
    if (is_pinned(s, host, bytes)) {
        s->host_busy = true;
        ACL(context->error, aclrtMemcpyAsync, "a copy", to, bytes, from, bytes, kind, s->own);
        return TW_OK;
    }
    ACL(context->error, aclrtSynchronizeStream, "a copy", s->own);
    s->host_busy = false;
    ACL(context->error, aclrtMemcpy, "a copy", to, bytes, from, bytes, kind);
    return TW_OK;
}

/* On the device between places that are not aligned as its copies want them: by way of the host. */
static int32_t copy_over_host(Context *context, void *to, const void *from, size_t bytes) {
    void *between = malloc(bytes);
    if (between == NULL) return twr_fail(context->error, TW_RESOURCE, "no memory for a copy of %zu bytes", bytes);
    int32_t code = cross(context, between, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST);
    if (code == TW_OK) code = cross(context, to, between, bytes, ACL_MEMCPY_HOST_TO_DEVICE);
    free(between);
    return code;
}

int32_t twr_device_copy(const tw_plan *plan, Context *context, void *to, uint32_t to_space, const void *from, uint32_t from_space,
                        size_t bytes) {
    Stream *s = context->stream;
    uintptr_t target = (uintptr_t)to, source = (uintptr_t)from;
    if (bytes == 0 || to == from) return TW_OK;
    if (to_space == SPACE_DEVICE && from_space == SPACE_DEVICE) {
        if (source < target + bytes && target < source + bytes) return twr_fail(context->error, TW_ARTIFACT, "a copy on the device overlaps itself");
        if (target % COPY_ALIGNMENT != 0 || source % COPY_ALIGNMENT != 0) return copy_over_host(context, to, from, bytes);
        ACL(context->error, aclrtMemcpyAsync, "a copy", to, bytes, from, bytes, ACL_MEMCPY_DEVICE_TO_DEVICE, s->own);
        return TW_OK;
    }
    if (to_space == SPACE_DEVICE) return cross(context, to, from, bytes, ACL_MEMCPY_HOST_TO_DEVICE);
    if (from_space == SPACE_DEVICE) return cross(context, to, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST);
    int32_t code = twr_device_settle(plan, context);
    if (code == TW_OK) memmove(to, from, bytes);
    return code;
}

/* Reads a few bytes of device memory, at most 8, as soon as they are there. */
int32_t twr_device_read(const tw_plan *plan, Context *context, void *to, const void *from, size_t bytes) {
    (void)plan;
    Stream *s = context->stream;
    ACL(context->error, aclrtMemcpyAsync, "a run-time size", s->scalar, sizeof *s->scalar, from, bytes, ACL_MEMCPY_DEVICE_TO_HOST, s->own);
    ACL(context->error, aclrtSynchronizeStream, "a run-time size", s->own);
    s->host_busy = false;
    memcpy(to, s->scalar, bytes);
    return TW_OK;
}
