/* What the executor asks of a device, for Ascend NPUs: in the place of the device.h of GPUs, in projects that CANN builds.
 *
 * Kernels are functions of the project, in a generated table; all else goes through the acl runtime, whose headers the
 * project is compiled against. */
#ifndef TILEWRIGHT_DEVICE_H
#define TILEWRIGHT_DEVICE_H

#include "acl/acl.h"
#include "executor.h"
#include "launches.h"

#define IO_ALIGNMENT 512  /* of tensors in device memory: a fractal of the cube unit */
#define COPY_ALIGNMENT 64 /* of both sides of a copy on the device (acl reference, aclrtMemcpyAsync) */

typedef struct Device {
    tw_device about;
    int32_t index;
    bool initialized; /* acl, by us */
    aclrtContext context;
    const tw_launches *launches;
    bool faults;      /* some kernel that is used has a fault word */
    void *weights;
    void **constants; /* by constant; NULL for those that only the host reads */
    int64_t weight_bytes;
    int32_t kernel_count, jit_count;
    double load_seconds, jit_seconds;
    _Atomic uint64_t direct, captured, replayed;
} Device;

/* Memory that grows; its contents are lost when it does. */
typedef struct {
    void *data;
    size_t bytes;
} Block;

/* The device's side of a run context. */
typedef struct Stream {
    aclrtStream own;
    void *end;         /* no event: runs are waited for */
    bool in_flight;
    bool host_busy;    /* work in `own` reads or writes host memory of the run */
    Block arena[SPACES][CALL_LIMIT], workspace, io; /* on the device, but for the arenas of the host */
    Block pinned;      /* on the host, page-locked: inputs and outputs on their way */
    int32_t *fault;    /* on the device */
    int64_t *scalar;   /* page-locked: where single values are read to */
    void **late;       /* device memory of outputs, freed once the run is done */
    uint32_t late_count;
} Stream;

/* acl_device.c */
int32_t twr_acl_fail(tw_error *error, aclError result, const char *call, const char *what);
int32_t twr_read_modules(tw_plan *plan, Device *device, const void *data, uint64_t bytes, uint32_t *count, tw_error *error);
int32_t twr_check_launches(const tw_plan *plan, tw_error *error);
int32_t twr_device_sizes(const tw_plan *plan, const Entry *entry, Layout *layout, tw_error *error);
int32_t twr_device_open(tw_plan *plan, const tw_device_options *options, tw_error *error);
void twr_device_close(tw_plan *plan);
int32_t twr_device_enter(const tw_plan *plan, tw_error *error);
void twr_device_leave(const tw_plan *plan);
void twr_device_synchronize(const tw_plan *plan);
int32_t twr_device_count(const char *library, int32_t *count, tw_error *error);
int32_t twr_device_describe(const char *library, int32_t index, tw_device *about, tw_error *error);
int32_t twr_device_runs(int32_t arch, int32_t major, int32_t minor);
void twr_device_free_memory(const tw_plan *plan, tw_device *about);

/* acl_memory.c */
int32_t twr_upload_weights(tw_plan *plan, tw_error *error);
int32_t twr_device_stream(const tw_plan *plan, Context *context, tw_error *error);
void twr_device_forget_stream(const tw_plan *plan, Context *context);
int32_t twr_device_grow(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error);
int32_t twr_device_pin(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error);
int32_t twr_device_arena(const tw_plan *plan, Context *context, uint32_t depth, const Layout *layout, void **arena);
int32_t twr_device_allocate(const tw_plan *plan, void **memory, int64_t bytes, const char *what, tw_error *error);
void twr_device_release(const tw_plan *plan, const Stream *stream, void *memory);
uint32_t twr_stream_graphs(const Stream *stream);
int64_t twr_stream_bytes(const Stream *stream);

/* acl_launch.c */
int32_t twr_device_launch(const tw_plan *plan, Context *context, const Entry *entry, uint32_t kernel, void *const *buffers,
                          const int64_t *dims, int64_t grid, int64_t scratch);
int32_t twr_device_copy(const tw_plan *plan, Context *context, void *to, uint32_t to_space, const void *from, uint32_t from_space,
                        size_t bytes);
int32_t twr_device_read(const tw_plan *plan, Context *context, void *to, const void *from, size_t bytes);
int32_t twr_device_settle(const tw_plan *plan, Context *context); /* the host may touch its memory of the run */

/* acl_run.c */
int32_t twr_device_run(tw_pending *pending, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs,
                       const tw_run_options *options);
int32_t twr_device_done(tw_pending *pending, tw_error *error);
int32_t twr_device_wait(tw_pending *pending, tw_error *error);

/* runtime.c */
int32_t twr_describe_outputs(const Entry *entry, const Layout *layout, tw_tensor *outputs, tw_error *error);

struct tw_pending {
    tw_plan *plan;
    const char *entry;
    Context *context;
    void *deliveries; /* none: outputs are there when a run returns */
    bool finished;
    int32_t code;
    tw_error error;
    double seconds;
};

/* Calls acl and leaves the function with an error that names the call, what it was for and what acl says. */
#define ACL(error, call, what, ...)                                                             \
    do {                                                                                        \
        aclError acl_result = call(__VA_ARGS__);                                                \
        if (acl_result != ACL_SUCCESS) return twr_acl_fail((error), acl_result, #call, (what)); \
    } while (0)

#endif
