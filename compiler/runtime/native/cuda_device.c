/* A GPU: which one, its primary context, and what it says of itself. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

static int32_t describe(const Driver *d, int32_t index, CUdevice handle, tw_device *about, tw_error *error) {
    size_t total = 0;
    CUuuid uuid;
    memset(about, 0, sizeof *about);
    about->index = index;
    about->driver = d->version;
    about->free_bytes = -1;
    CUDA(d, error, cuDeviceGetName, "", about->name, (int)sizeof about->name - 1, handle);
    CUDA(d, error, cuDeviceGetUuid_v2, "", &uuid, handle);
    memcpy(about->uuid, uuid.bytes, sizeof about->uuid);
    CUDA(d, error, cuDeviceTotalMem_v2, "", &total, handle);
    about->total_bytes = (int64_t)total;
    const struct {
        int32_t attribute, *value;
    } wanted[] = {{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &about->major},
                  {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &about->minor},
                  {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &about->processors},
                  {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &about->shared_bytes}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        CUDA(d, error, cuDeviceGetAttribute, "", wanted[i].value, wanted[i].attribute, handle);
    return TW_OK;
}

static int32_t count_devices(const Driver *d, int32_t *count, tw_error *error) {
    CUDA(d, error, cuDeviceGetCount, "", count);
    if (*count > 0) return TW_OK;
    return twr_fail(error, TW_DEVICE, "the NVIDIA driver sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES");
}

static int32_t find_device(const Driver *d, int32_t index, CUdevice *handle, tw_error *error) {
    int32_t count = 0, code = count_devices(d, &count, error);
    if (code != TW_OK) return code;
    if (index < 0 || index >= count)
        return twr_fail(error, TW_DEVICE, "there is no GPU %d: the driver shows %d, numbered from 0 (CUDA_VISIBLE_DEVICES hides others)",
                        index, count);
    CUDA(d, error, cuDeviceGet, "", handle, index);
    return TW_OK;
}

int32_t twr_device_count(const char *library, int32_t *count, tw_error *error) {
    Driver driver;
    *count = 0;
    int32_t code = twr_driver_open(&driver, library, 0, error);
    if (code != TW_OK) return code;
    code = count_devices(&driver, count, error);
    twr_driver_close(&driver);
    return code;
}

int32_t twr_device_describe(const char *library, int32_t index, tw_device *about, tw_error *error) {
    Driver driver;
    CUdevice handle = 0;
    int32_t code = twr_driver_open(&driver, library, 0, error);
    if (code != TW_OK) return code;
    code = find_device(&driver, index, &handle, error);
    if (code == TW_OK) code = describe(&driver, index, handle, about, error);
    twr_driver_close(&driver);
    return code;
}

/* Machine code runs on its own major version from its minor version on (CUDA programming guide, binary compatibility). From
 * sm_90 on, the code of this compiler is of the architecture-specific kind, which runs on exactly that GPU. */
int32_t twr_device_runs(int32_t arch, int32_t major, int32_t minor) {
    return arch >= 90 ? arch == 10 * major + minor : arch / 10 == major && arch % 10 <= minor;
}

static int32_t check_features(const Device *device, tw_error *error) {
    const Driver *d = &device->driver;
    int mapped = 0, unified = 0;
    CUDA(d, error, cuDeviceGetAttribute, "", &mapped, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, device->handle);
    CUDA(d, error, cuDeviceGetAttribute, "", &unified, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, device->handle);
    if (mapped && unified) return TW_OK;
    return twr_fail(error, TW_DEVICE, "%s has no unified addresses of host and device memory, which the runtime needs", device->about.name);
}

static int32_t take_context(Device *device, tw_error *error) {
    CUDA(&device->driver, error, cuDevicePrimaryCtxRetain, device->about.name, &device->context, device->handle);
    return TW_OK;
}

/* Opens the driver and the GPU of `plan->device`, whose kernels are read, and brings modules and weights there. */
int32_t twr_device_open(tw_plan *plan, const tw_device_options *options, tw_error *error) {
    Device *device = plan->device;
    device->process = getpid();
    device->flags = options->flags;
    device->graph_limit = options->graphs > 0 ? (uint32_t)options->graphs : GRAPH_LIMIT;
    if (device->graph_limit > GRAPHS_MOST) device->graph_limit = GRAPHS_MOST;
    int32_t code = twr_driver_open(&device->driver, options->library, options->driver_needed, error);
    if (code == TW_OK) code = find_device(&device->driver, options->device, &device->handle, error);
    if (code == TW_OK) code = describe(&device->driver, options->device, device->handle, &device->about, error);
    if (code == TW_OK) code = check_features(device, error);
    if (code == TW_OK) code = take_context(device, error);
    if (code == TW_OK) code = twr_device_enter(plan, error);
    if (code != TW_OK) return code;
    code = twr_load_modules(plan, error);
    if (code == TW_OK) code = twr_upload_weights(plan, error);
    twr_device_leave(plan);
    return code;
}

/* Gives up the device. In a forked child the driver is not to be touched: what it holds is the parent's. */
void twr_device_close(tw_plan *plan) {
    Device *device = plan->device;
    Driver *d = &device->driver;
    if (d->library == NULL) return;
    if (device->process != (int64_t)getpid()) return;
    if (device->context != NULL && twr_device_enter(plan, NULL) == TW_OK) {
        for (uint32_t i = 0; i < plan->kernel_count; i++)
            if (device->kernels[i].module != NULL) d->cuModuleUnload(device->kernels[i].module);
        if (device->weights != 0) d->cuMemFree_v2(device->weights);
        twr_device_leave(plan);
    }
    if (device->context != NULL) d->cuDevicePrimaryCtxRelease_v2(device->handle);
    twr_driver_close(d);
}

int32_t twr_device_enter(const tw_plan *plan, tw_error *error) {
    const Device *device = plan->device;
    if (device->process != (int64_t)getpid())
        return twr_fail(error, TW_DEVICE, "this process was forked from the one that opened the model: CUDA does not survive a fork. "
                                          "Open the model in the child, or start it with spawn");
    CUDA(&device->driver, error, cuCtxPushCurrent_v2, "", device->context);
    return TW_OK;
}

void twr_device_leave(const tw_plan *plan) {
    CUcontext old;
    plan->device->driver.cuCtxPopCurrent_v2(&old);
}

void twr_device_synchronize(const tw_plan *plan) { plan->device->driver.cuCtxSynchronize(); }

/* Free and total memory now, with the context current. */
void twr_device_free_memory(const tw_plan *plan, tw_device *about) {
    size_t left = 0, total = 0;
    *about = plan->device->about;
    if (plan->device->driver.cuMemGetInfo_v2(&left, &total) == CUDA_SUCCESS) about->free_bytes = (int64_t)left;
}
