/* Puts the work of a run into its stream: kernels, copies, and what the host must wait for. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define REFUSE(...) return twr_fail(context->error, TW_ARTIFACT, __VA_ARGS__)

/* -- the workspace ------------------------------------------------------------------------------------------------ */

/* Kernels find their counters zero at the start of the workspace and leave them so; what they write behind may lie where
 * the next kernel has counters. `clean` leading bytes are known to be zero: a kernel with more counters gets them cleared,
 * one that writes behind its own leaves only these. A graph records what it relied on (`relies`), what it cleared
 * (`cleans`) and the fewest counters before writes (`floor`), so that its replay can keep the same book. */
static int32_t prepare_workspace(const tw_plan *plan, Context *context, const Entry *e, const Kernel *k, int64_t scratch) {
    Stream *s = context->stream;
    size_t counters = k->counter_bytes;
    if (scratch < (int64_t)counters) REFUSE("entry '%s': kernel '%s' has less scratch than counters", e->name, k->entry);
    if ((size_t)scratch > s->workspace.bytes) {
        int32_t code = twr_device_grow(plan, s, &s->workspace, (size_t)scratch, "the workspace", context->error);
        if (code != TW_OK) return code;
        s->clean = 0;
    }
    if (counters > s->clean) {
        CUDA(&plan->device->driver, context->error, cuMemsetD8Async, "counters", (CUdeviceptr)(uintptr_t)s->workspace.data, 0, counters,
             s->now);
        s->clean = s->cleans = counters;
    } else if (counters > s->cleans && counters > s->relies) {
        s->relies = counters;
    }
    if ((size_t)scratch > counters) {
        if (counters < s->clean) s->clean = counters;
        if (counters < s->floor) s->floor = counters;
    }
    return TW_OK;
}

static int32_t prepare_global(const tw_plan *plan, Context *context, const Kernel *k, int64_t grid) {
    int64_t bytes;
    Stream *s = context->stream;
    if (__builtin_mul_overflow(grid, (int64_t)k->global_bytes + k->profile_bytes, &bytes) || bytes > INT64_MAX - IO_ALIGNMENT)
        REFUSE("kernel '%s' asks for too much scratch", k->entry);
    return twr_device_grow(plan, s, &s->global, (size_t)bytes + IO_ALIGNMENT, "the scratch of a kernel", context->error);
}

/* -- kernels ------------------------------------------------------------------------------------------------------ */

static int32_t fill_parameters(const tw_plan *plan, Context *context, const Entry *e, const Kernel *k, void *const *buffers,
                               const int64_t *dims, int64_t grid, int64_t scratch) {
    Stream *s = context->stream;
    for (uint32_t i = 0; i < k->param_count; i++) {
        uint32_t kind = k->params[i] & 255, index = k->params[i] >> 8;
        uint64_t value = 0;
        int32_t code = TW_OK;
        switch (kind) {
        case PARAM_BUFFER: value = (uint64_t)(uintptr_t)buffers[index]; break;
        case PARAM_DIM32:
            if (dims[index] != (int32_t)dims[index])
                return twr_fail(context->error, TW_USAGE, "entry '%s': kernel '%s' takes sizes of 32 bits, one is %" PRId64, e->name,
                                k->entry, dims[index]);
            value = (uint32_t)(int32_t)dims[index];
            break;
        case PARAM_DIM64: value = (uint64_t)dims[index]; break;
        case PARAM_GLOBAL:
        case PARAM_PROFILE:
            if ((kind == PARAM_GLOBAL ? k->global_bytes : k->profile_bytes) == 0) break;
            code = prepare_global(plan, context, k, grid);
            value = (uint64_t)(uintptr_t)s->global.data;
            if (kind == PARAM_PROFILE)
                value += ((uint64_t)grid * k->global_bytes + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT;
            break;
        case PARAM_WORKSPACE:
            code = prepare_workspace(plan, context, e, k, scratch);
            value = (uint64_t)(uintptr_t)s->workspace.data;
            break;
        default: value = s->fault_device; break;
        }
        if (code != TW_OK) return code;
        s->values[i] = value;
        s->pointers[i] = &s->values[i];
    }
    return TW_OK;
}

/* Records an event before (`side` 0) or after a launch of a run that is profiled; false when that cannot be had. */
static bool mark(const tw_plan *plan, Context *context, uint32_t side) {
    Stream *s = context->stream;
    const Driver *d = &plan->device->driver;
    if (2 * s->launches + side >= s->mark_count) {
        uint32_t count = s->mark_count ? s->mark_count * 2 : 64;
        CUevent *grown = count > s->mark_count ? realloc(s->marks, count * sizeof *grown) : NULL;
        if (grown == NULL) return false;
        s->marks = grown;
        for (; s->mark_count < count; s->mark_count++)
            if (d->cuEventCreate(&s->marks[s->mark_count], CU_EVENT_DEFAULT) != CUDA_SUCCESS) return false;
    }
    return d->cuEventRecord(s->marks[2 * s->launches + side], s->now) == CUDA_SUCCESS;
}

/* Notes a launch in the profile; seconds below 0 are told by the events, once the run is done. */
static void note(Context *context, uint32_t kernel, bool marked) {
    tw_profile *profile = context->profile;
    if (profile->count < profile->capacity) {
        profile->kernel[profile->count] = kernel;
        profile->seconds[profile->count] = marked ? -1 : 0;
        context->stream->launches += marked;
    }
    profile->count++;
}

int32_t twr_device_launch(const tw_plan *plan, Context *context, const Entry *e, uint32_t kernel, void *const *buffers,
                          const int64_t *dims, int64_t grid, int64_t scratch) {
    Stream *s = context->stream;
    const Kernel *k = &plan->device->kernels[kernel];
    if (grid > INT32_MAX) REFUSE("entry '%s': kernel '%s' has %" PRId64 " blocks, a GPU runs at most %d", e->name, k->entry, grid, INT32_MAX);
    int32_t code = fill_parameters(plan, context, e, k, buffers, dims, grid, scratch);
    if (code != TW_OK) return code;
    const tw_profile *profile = context->profile;
    bool marked = profile != NULL && profile->count < profile->capacity && mark(plan, context, 0);
    CUDA(&plan->device->driver, context->error, cuLaunchKernel, k->entry, k->function, (unsigned)grid, 1, 1, k->threads, 1, 1, k->shared,
         s->now, s->pointers, NULL);
    if (profile != NULL) note(context, kernel, marked && mark(plan, context, 1));
    return TW_OK;
}

/* Seconds of the launches of a run that is done, from the events around them. Launches of the host have theirs already. */
void twr_collect_profile(const tw_plan *plan, Stream *s, tw_profile *profile) {
    uint32_t launch = 0, count = profile->count < profile->capacity ? profile->count : profile->capacity;
    for (uint32_t i = 0; i < count && launch < s->launches; i++) {
        float milliseconds = 0;
        if (profile->seconds[i] >= 0) continue;
        if (plan->device->driver.cuEventElapsedTime(&milliseconds, s->marks[2 * launch], s->marks[2 * launch + 1]) == CUDA_SUCCESS)
            profile->seconds[i] = 1e-3 * (double)milliseconds;
        launch++;
    }
}

/* -- copies ------------------------------------------------------------------------------------------------------- */

/* Waits until the stream's work no longer reads or writes memory of the host. */
int32_t twr_device_settle(const tw_plan *plan, Context *context) {
    Stream *s = context->stream;
    if (!s->host_busy) return TW_OK;
    CUDA(&plan->device->driver, context->error, cuStreamSynchronize, "a step on the host", s->now);
    s->host_busy = false;
    return TW_OK;
}

int32_t twr_device_copy(const tw_plan *plan, Context *context, void *to, uint32_t to_space, const void *from, uint32_t from_space,
                        size_t bytes) {
    const Driver *d = &plan->device->driver;
    Stream *s = context->stream;
    CUdeviceptr target = (CUdeviceptr)(uintptr_t)to, source = (CUdeviceptr)(uintptr_t)from;
    if (bytes == 0 || to == from) return TW_OK;
    if (to_space == SPACE_DEVICE && from_space == SPACE_DEVICE) {
        if (source < target + bytes && target < source + bytes) REFUSE("a copy on the device overlaps itself");
        CUDA(d, context->error, cuMemcpyDtoDAsync_v2, "a copy", target, source, bytes, s->now);
    } else if (to_space == SPACE_DEVICE) {
        s->host_busy = true;
        CUDA(d, context->error, cuMemcpyHtoDAsync_v2, "a copy", target, from, bytes, s->now);
    } else if (from_space == SPACE_DEVICE) {
        s->host_busy = true;
        CUDA(d, context->error, cuMemcpyDtoHAsync_v2, "a copy", to, source, bytes, s->now);
    } else {
        int32_t code = twr_device_settle(plan, context);
        if (code != TW_OK) return code;
        memmove(to, from, bytes);
    }
    return TW_OK;
}

/* Reads a few bytes of device memory, at most 8, as soon as they are there. */
int32_t twr_device_read(const tw_plan *plan, Context *context, void *to, const void *from, size_t bytes) {
    Stream *s = context->stream;
    const Driver *d = &plan->device->driver;
    CUDA(d, context->error, cuMemcpyDtoHAsync_v2, "a run-time size", s->scalar, (CUdeviceptr)(uintptr_t)from, bytes, s->now);
    CUDA(d, context->error, cuStreamSynchronize, "a run-time size", s->now);
    s->host_busy = false;
    memcpy(to, s->scalar, bytes);
    return TW_OK;
}
