/* Brings the code and the weights of a plan to its GPU. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"

#define PIECE ((size_t)8 << 20) /* of weights that are staged at a time: large enough that the copy is at full speed */
#define LOG_BYTES 400

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* -- code --------------------------------------------------------------------------------------------------------- */

static int32_t no_code(const tw_plan *plan, const Kernel *k, tw_error *error) {
    const Device *device = plan->device;
    const tw_device *gpu = &device->about;
    bool ptx = k->ptx != NULL && (uint32_t)(10 * gpu->major + gpu->minor) >= device->arch;
    return twr_fail(error, TW_DEVICE,
                    "no code for this GPU: %s has compute capability %d.%d; the file holds machine code for sm_%u%s. %s", gpu->name,
                    gpu->major, gpu->minor, device->arch, k->ptx != NULL ? " and PTX" : "",
                    ptx ? "Allow the driver to compile the PTX (--allow-jit), or compile the model for this GPU"
                        : "Compile the model for this GPU");
}

/* The driver wants its image aligned, PTX with a zero at its end. */
static int32_t load_image(const tw_plan *plan, Kernel *k, const void *image, uint64_t bytes, tw_error *error) {
    const Driver *d = &plan->device->driver;
    char log[LOG_BYTES] = "", about[LOG_BYTES + 400];
    int names[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)(LOG_BYTES - 1)};
    char *copy = twr_aligned((size_t)bytes + 1);
    if (copy == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the code of kernel '%s'", k->entry);
    memcpy(copy, image, (size_t)bytes);
    copy[bytes] = 0;
    CUresult result = d->cuModuleLoadDataEx(&k->module, copy, 2, names, values);
    free(copy);
    if (result == CUDA_SUCCESS) return TW_OK;
    bool newer = result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION || result == CUDA_ERROR_INVALID_IMAGE;
    snprintf(about, sizeof about, "kernel %.80s on %.80s, driver for CUDA %d.%d%s%s%s", k->entry, plan->device->about.name, d->version / 1000,
             d->version % 1000 / 10, newer ? "; a newer driver may take it" : "", *log != 0 ? "; " : "", log);
    return twr_driver_fail(d, result, "cuModuleLoadDataEx", about, error);
}

/* What the driver says that the kernel takes, against what will be passed. */
static int32_t check_parameters(const tw_plan *plan, const Kernel *k, tw_error *error) {
    const Driver *d = &plan->device->driver;
    size_t offset, bytes;
    if (d->cuFuncGetParamInfo == NULL) return TW_OK;
    for (uint32_t i = 0; i <= k->param_count; i++) {
        CUresult result = d->cuFuncGetParamInfo(k->function, i, &offset, &bytes);
        size_t wanted = i < k->param_count && (k->params[i] & 255) == PARAM_DIM32 ? 4 : 8;
        if (i == k->param_count ? result == CUDA_ERROR_INVALID_VALUE : result == CUDA_SUCCESS && bytes == wanted) continue;
        return twr_fail(error, TW_ARTIFACT, "kernel '%s' takes other parameters than modules.bin says (parameter %u)", k->entry, i);
    }
    return TW_OK;
}

static int32_t check_limits(const tw_plan *plan, const Kernel *k, tw_error *error) {
    const Driver *d = &plan->device->driver;
    const tw_device *gpu = &plan->device->about;
    int threads = 0, fixed = 0;
    CUDA(d, error, cuFuncGetAttribute, k->entry, &threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, k->function);
    CUDA(d, error, cuFuncGetAttribute, k->entry, &fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, k->function);
    if ((int64_t)k->threads > threads)
        return twr_fail(error, TW_DEVICE, "kernel '%s' needs %u threads a block, %s runs it with at most %d: compile the model for this GPU",
                        k->entry, k->threads, gpu->name, threads);
    if ((int64_t)k->shared + fixed > gpu->shared_bytes)
        return twr_fail(error, TW_DEVICE,
                        "kernel '%s' needs %" PRId64 " bytes of shared memory, %s has %d a block: compile the model for this GPU", k->entry,
                        (int64_t)k->shared + fixed, gpu->name, gpu->shared_bytes);
    if (k->shared > DYNAMIC_SHARED_DEFAULT)
        CUDA(d, error, cuFuncSetAttribute, k->entry, k->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)k->shared);
    return TW_OK;
}

static int32_t load_kernel(const tw_plan *plan, Kernel *k, tw_error *error) {
    Device *device = plan->device;
    const tw_device *gpu = &device->about;
    int32_t code;
    if (k->cubin != NULL && twr_device_runs((int32_t)device->arch, gpu->major, gpu->minor)) {
        code = load_image(plan, k, k->cubin, k->cubin_bytes, error);
    } else if (k->ptx != NULL && device->flags & TW_ALLOW_JIT && (uint32_t)(10 * gpu->major + gpu->minor) >= device->arch) {
        double start = now();
        code = load_image(plan, k, k->ptx, k->ptx_bytes, error);
        device->jit_seconds += now() - start;
        device->jit_count++;
    } else {
        return no_code(plan, k, error);
    }
    if (code != TW_OK) return code;
    CUDA(&device->driver, error, cuModuleGetFunction, k->entry, &k->function, k->module, k->entry);
    code = check_parameters(plan, k, error);
    return code == TW_OK ? check_limits(plan, k, error) : code;
}

/* Loads the kernels that are launched somewhere. All of them now: loading may not happen while a graph is captured. */
int32_t twr_load_modules(tw_plan *plan, tw_error *error) {
    Device *device = plan->device;
    double start = now();
    for (uint32_t i = 0; i < plan->kernel_count; i++) {
        Kernel *k = &device->kernels[i];
        if (!k->used) continue;
        int32_t code = load_kernel(plan, k, error);
        if (code != TW_OK) return code;
        device->kernel_count++;
    }
    for (uint32_t i = 0; i < plan->kernel_count; i++) device->kernels[i].cubin = device->kernels[i].ptx = NULL;
    device->load_seconds += now() - start;
    return TW_OK;
}

/* -- weights ------------------------------------------------------------------------------------------------------ */

/* Offsets of the constants that device buffers name, and the bytes of all; -1 where the host alone reads it. */
static int64_t place_constants(const tw_plan *plan, int64_t *offset) {
    int64_t total = 0;
    for (uint32_t i = 0; i < plan->constant_count; i++) offset[i] = -1;
    for (uint32_t n = 0; n < plan->entry_count; n++)
        for (uint32_t i = 0; i < plan->entries[n].buffer_count; i++) {
            const Buffer *b = &plan->entries[n].buffers[i];
            if (b->kind == BUFFER_CONSTANT && b->base == NONE && b->space == SPACE_DEVICE) offset[b->index] = 0;
        }
    for (uint32_t i = 0; i < plan->constant_count; i++) {
        if (offset[i] < 0) continue;
        offset[i] = total;
        total += (plan->constants[i].bytes + IO_ALIGNMENT - 1) / IO_ALIGNMENT * IO_ALIGNMENT;
    }
    return total;
}

typedef struct {
    const Driver *driver;
    CUstream stream;
    CUevent event[2];
    char *piece[2];
    uint32_t turn;
} Upload;

/* Through two page-locked pieces in turn: one is filled while the other is copied. */
static int32_t upload(Upload *u, CUdeviceptr to, const char *from, size_t bytes, tw_error *error) {
    for (size_t done = 0; done < bytes; u->turn ^= 1) {
        size_t size = bytes - done < PIECE ? bytes - done : PIECE;
        CUDA(u->driver, error, cuEventSynchronize, "weights", u->event[u->turn]);
        memcpy(u->piece[u->turn], from + done, size);
        CUDA(u->driver, error, cuMemcpyHtoDAsync_v2, "weights", to + done, u->piece[u->turn], size, u->stream);
        CUDA(u->driver, error, cuEventRecord, "weights", u->event[u->turn], u->stream);
        done += size;
    }
    return TW_OK;
}

static int32_t upload_all(tw_plan *plan, Upload *u, const int64_t *offset, tw_error *error) {
    CUDA(u->driver, error, cuStreamCreate, "", &u->stream, CU_STREAM_NON_BLOCKING);
    for (int i = 0; i < 2; i++) {
        CUDA(u->driver, error, cuEventCreate, "", &u->event[i], CU_EVENT_DISABLE_TIMING);
        CUDA(u->driver, error, cuMemHostAlloc, "staging of the weights", (void **)&u->piece[i], PIECE, CU_MEMHOSTALLOC_PORTABLE);
    }
    for (uint32_t i = 0; i < plan->constant_count; i++) {
        if (offset[i] < 0) continue;
        plan->device->constants[i] = plan->device->weights + (CUdeviceptr)offset[i];
        int32_t code = upload(u, plan->device->constants[i], plan->constants[i].data, (size_t)plan->constants[i].bytes, error);
        if (code != TW_OK) return code;
    }
    CUDA(u->driver, error, cuStreamSynchronize, "weights", u->stream);
    return TW_OK;
}

/* One block of device memory with the constants that device buffers name. */
int32_t twr_upload_weights(tw_plan *plan, tw_error *error) {
    Device *device = plan->device;
    double start = now();
    int64_t *offset = calloc((size_t)plan->constant_count + 1, sizeof *offset);
    device->constants = twr_own(plan, plan->constant_count, sizeof *device->constants);
    if (offset == NULL || device->constants == NULL) {
        free(offset);
        return twr_fail(error, TW_RESOURCE, "no memory for the weights");
    }
    Upload u = {&device->driver, NULL, {NULL, NULL}, {NULL, NULL}, 0};
    void *memory = NULL;
    device->weight_bytes = place_constants(plan, offset);
    int32_t code = twr_device_allocate(plan, &memory, device->weight_bytes, "the weights", error);
    device->weights = (CUdeviceptr)(uintptr_t)memory;
    if (code == TW_OK) code = upload_all(plan, &u, offset, error);
    if (u.stream != NULL) u.driver->cuStreamSynchronize(u.stream);
    for (int i = 0; i < 2; i++) {
        if (u.event[i] != NULL) u.driver->cuEventDestroy_v2(u.event[i]);
        if (u.piece[i] != NULL) u.driver->cuMemFreeHost(u.piece[i]);
    }
    if (u.stream != NULL) u.driver->cuStreamDestroy_v2(u.stream);
    free(offset);
    device->load_seconds += now() - start;
    return code;
}
