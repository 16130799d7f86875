/* An Ascend NPU: which one, the kernels that the project has for it, and what acl says when it fails. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "device.h"

#define REFUSE(...) return twr_fail(error, TW_ARTIFACT, __VA_ARGS__)
#define BLOCKS_MOST 65535 /* of a launch (Ascend C reference, blockDim) */

int32_t twr_acl_fail(tw_error *error, aclError result, const char *call, const char *what) {
    const char *said = aclGetRecentErrMsg();
    return twr_fail(error, TW_DEVICE, "%s failed with code %d%s%s%s%.600s", call, (int)result, *what ? " for " : "", what,
                    said != NULL ? ": " : "", said != NULL ? said : "");
}

/* -- kernels ------------------------------------------------------------------------------------------------------ */

/* `data` is the project's table of launches, not bytes of a file. */
int32_t twr_read_modules(tw_plan *plan, Device *device, const void *data, uint64_t bytes, uint32_t *count, tw_error *error) {
    (void)plan;
    const tw_launches *launches = data;
    if (launches == NULL || bytes != sizeof *launches || launches->size != sizeof *launches)
        REFUSE("the table of launches has another interface");
    device->launches = launches;
    *count = launches->count;
    return TW_OK;
}

/* Every launch of the plan gives its kernel what it takes. */
int32_t twr_check_launches(const tw_plan *plan, tw_error *error) {
    Device *device = plan->device;
    for (uint32_t i = 0; i < plan->kernel_count; i++)
        if (strcmp(plan->kernel_names[i], device->launches->kernel[i].name) != 0)
            REFUSE("kernel %u is '%s' in the plan and '%s' in the program: build the project from one export", i, plan->kernel_names[i],
                   device->launches->kernel[i].name);
    for (uint32_t n = 0; n < plan->entry_count; n++) {
        const Entry *e = &plan->entries[n];
        for (uint32_t i = 0; i < e->code_count; i++) {
            const uint32_t *a = e->code[i].arg;
            if (e->code[i].op != OP_LAUNCH) continue;
            const tw_launch_entry *k = &device->launches->kernel[a[0]];
            if (k->buffers > a[3] || k->dims > a[4])
                REFUSE("entry '%s': instruction %u gives kernel '%s' %u buffers and %u sizes, it takes %u and %u", e->name, i, k->name, a[3],
                       a[4], k->buffers, k->dims);
            device->faults |= k->fault != 0;
        }
    }
    return TW_OK;
}

/* Most workspace that the launches of known size ask for. */
int32_t twr_device_sizes(const tw_plan *plan, const Entry *e, Layout *layout, tw_error *error) {
    for (uint32_t i = 0; i < e->code_count; i++) {
        const uint32_t *a = e->code[i].arg;
        if (e->code[i].op != OP_LAUNCH) continue;
        int64_t scratch = e->exprs[a[2]].dynamic ? 0 : layout->value[a[2]], grid = e->exprs[a[1]].dynamic ? 0 : layout->value[a[1]];
        if (grid < 0 || grid > BLOCKS_MOST || scratch < 0)
            REFUSE("entry '%s': kernel '%s' has a malformed grid or workspace", e->name, plan->kernel_names[a[0]]);
        if (grid > 0 && scratch > layout->scratch_bytes) layout->scratch_bytes = scratch;
    }
    return TW_OK;
}

/* -- the device --------------------------------------------------------------------------------------------------- */

static int32_t initialize(bool *ours, tw_error *error) {
    aclError result = aclInit(NULL);
    *ours = result == ACL_SUCCESS;
    if (*ours || result == ACL_ERROR_REPEAT_INITIALIZE) return TW_OK;
    return twr_acl_fail(error, result, "aclInit", "the acl runtime");
}

static int32_t count_devices(int32_t *count, tw_error *error) {
    uint32_t found = 0;
    ACL(error, aclrtGetDeviceCount, "the devices", &found);
    *count = (int32_t)found;
    if (found > 0) return TW_OK;
    return twr_fail(error, TW_DEVICE, "there is no Ascend device: look at npu-smi info and ASCEND_RT_VISIBLE_DEVICES");
}

static int32_t find_device(int32_t index, tw_error *error) {
    int32_t count = 0, code = count_devices(&count, error);
    if (code != TW_OK) return code;
    if (index >= 0 && index < count) return TW_OK;
    return twr_fail(error, TW_DEVICE, "there is no Ascend device %d: acl shows %d, numbered from 0 (ASCEND_RT_VISIBLE_DEVICES hides others)",
                    index, count);
}

static void describe(int32_t index, tw_device *about) {
    const char *name = aclrtGetSocName();
    size_t left = 0, total = 0;
    memset(about, 0, sizeof *about);
    about->index = index;
    snprintf(about->name, sizeof about->name, "%s", name != NULL ? name : "an Ascend device");
    about->free_bytes = -1;
    if (aclrtGetMemInfo(ACL_HBM_MEM, &left, &total) == ACL_SUCCESS && total > 0) about->total_bytes = (int64_t)total;
}

int32_t twr_device_count(const char *library, int32_t *count, tw_error *error) {
    bool ours;
    (void)library; /* acl is linked */
    *count = 0;
    int32_t code = initialize(&ours, error);
    if (code == TW_OK) code = count_devices(count, error);
    return code;
}

int32_t twr_device_describe(const char *library, int32_t index, tw_device *about, tw_error *error) {
    int32_t count, code = twr_device_count(library, &count, error);
    if (code == TW_OK) code = find_device(index, error);
    if (code == TW_OK) describe(index, about);
    return code;
}

/* The kernels were compiled for one architecture; the device's loader refuses others. */
int32_t twr_device_runs(int32_t arch, int32_t major, int32_t minor) {
    (void)arch, (void)major, (void)minor;
    return 1;
}

int32_t twr_device_open(tw_plan *plan, const tw_device_options *options, tw_error *error) {
    Device *device = plan->device;
    device->index = options->device;
    device->kernel_count = (int32_t)plan->kernel_count;
    int32_t code = initialize(&device->initialized, error);
    if (code == TW_OK) code = find_device(device->index, error);
    if (code != TW_OK) return code;
    ACL(error, aclrtSetDevice, "the device", device->index);
    ACL(error, aclrtGetCurrentContext, "the device", &device->context);
    describe(device->index, &device->about);
    return twr_upload_weights(plan, error);
}

void twr_device_close(tw_plan *plan) {
    Device *device = plan->device;
    if (device->context != NULL && twr_device_enter(plan, NULL) == TW_OK) {
        if (device->weights != NULL) aclrtFree(device->weights);
        aclrtResetDevice(device->index);
    }
    if (device->initialized) aclFinalize();
}

int32_t twr_device_enter(const tw_plan *plan, tw_error *error) {
    ACL(error, aclrtSetCurrentContext, "the device", plan->device->context);
    return TW_OK;
}

void twr_device_leave(const tw_plan *plan) { (void)plan; /* the context of a thread is set at each use */ }

void twr_device_synchronize(const tw_plan *plan) {
    (void)plan;
    aclrtSynchronizeDevice();
}

void twr_device_free_memory(const tw_plan *plan, tw_device *about) {
    size_t left = 0, total = 0;
    *about = plan->device->about;
    if (aclrtGetMemInfo(ACL_HBM_MEM, &left, &total) == ACL_SUCCESS && total > 0) about->free_bytes = (int64_t)left;
}
