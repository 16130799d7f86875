/* What the executor asks of a GPU, and what the files of the CUDA side share. Only declarations of our own: the driver is
 * opened at run time, so nothing here needs NVIDIA's headers. */
#ifndef TILEWRIGHT_DEVICE_H
#define TILEWRIGHT_DEVICE_H

#include "cuda_driver.h"
#include "executor.h"

#define PARAMETER_LIMIT 1024 /* of a kernel: 4 KiB of 4-byte values are the most that CUDA passes */
#define GRAPH_LIMIT 16       /* graphs that a run context keeps unless told otherwise */
#define GRAPHS_MOST 4096     /* that it can be told to keep */
#define NOTE_LIMIT 32        /* shapes that it remembers to have run once */
#define POINTER_ALIGNMENT 16 /* what kernels are compiled for; other tensors are copied first */
#define IO_ALIGNMENT 256

enum { PARAM_BUFFER, PARAM_DIM32, PARAM_DIM64, PARAM_GLOBAL, PARAM_PROFILE, PARAM_WORKSPACE, PARAM_FAULT, PARAM_COUNT };

/* A kernel of modules.bin. `buffers` and `dims`: how many a launch must give at least. */
typedef struct {
    const char *entry;
    uint32_t threads, shared, global_bytes, profile_bytes, counter_bytes;
    const void *cubin, *ptx; /* of the bytes given to create_device: only while it runs */
    uint64_t cubin_bytes, ptx_bytes;
    const uint32_t *params;
    uint32_t param_count, buffers, dims;
    bool used;
    CUmodule module;
    CUfunction function;
} Kernel;

typedef struct Device {
    Driver driver;
    tw_device about;
    CUdevice handle;
    CUcontext context;
    int64_t process;    /* that made it: CUDA does not survive a fork */
    uint32_t arch, flags, graph_limit;
    Kernel *kernels;
    bool faults;        /* some kernel that is used has a fault word */
    CUdeviceptr weights;
    CUdeviceptr *constants; /* by constant; 0 for those that only the host reads */
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

/* A graph, or only the note that this key was run once (`exec` NULL). */
typedef struct {
    uint64_t *key;
    uint32_t key_words;
    uint64_t stamp;
    CUgraphExec exec;
    size_t relies, cleans, floor; /* of the workspace's leading zeros: see cuda_launch.c */
} GraphRecord;

/* The device's side of a run context. */
typedef struct Stream {
    CUstream own, now;      /* `now`: where this run's work goes */
    CUevent end, times[2];
    CUevent *marks;         /* of a profile: before and after each launch */
    uint32_t mark_count, launches;
    bool in_flight;         /* `end` was recorded and not yet seen */
    bool host_busy;         /* work in `now` reads or writes host memory of the run */
    bool timed;
    Block arena[SPACES][CALL_LIMIT], workspace, global, io; /* on the device, but for the arenas of the host */
    Block pinned, host_io;  /* on the host, page-locked: staging, and what the plan wants there */
    size_t clean;           /* leading bytes of the workspace that are zero */
    size_t relies, cleans, floor; /* what the run going on did about them */
    int32_t *fault;         /* page-locked; kernels store through `fault_device` */
    CUdeviceptr fault_device;
    int64_t *scalar;        /* page-locked: where run-time sizes are read to */
    GraphRecord *graphs;
    uint32_t graph_count;
    uint64_t clock;
    void **late;            /* device memory of outputs, freed once the run is done */
    uint32_t late_count;
    uint64_t values[PARAMETER_LIMIT];
    void *pointers[PARAMETER_LIMIT];
} Stream;

/* modules.c */
int32_t twr_read_modules(tw_plan *plan, Device *device, const void *data, uint64_t bytes, uint32_t *count, tw_error *error);
int32_t twr_check_launches(const tw_plan *plan, tw_error *error);
int32_t twr_device_sizes(const tw_plan *plan, const Entry *entry, Layout *layout, tw_error *error);

/* cuda_device.c */
int32_t twr_device_open(tw_plan *plan, const tw_device_options *options, tw_error *error);
void twr_device_close(tw_plan *plan);
int32_t twr_device_enter(const tw_plan *plan, tw_error *error); /* makes the context current; then twr_device_leave */
void twr_device_leave(const tw_plan *plan);
void twr_device_synchronize(const tw_plan *plan); /* all of the device's work, with the context current */
int32_t twr_device_count(const char *library, int32_t *count, tw_error *error);
int32_t twr_device_describe(const char *library, int32_t index, tw_device *about, tw_error *error);
int32_t twr_device_runs(int32_t arch, int32_t major, int32_t minor);
void twr_device_free_memory(const tw_plan *plan, tw_device *about);

/* cuda_modules.c */
int32_t twr_load_modules(tw_plan *plan, tw_error *error);
int32_t twr_upload_weights(tw_plan *plan, tw_error *error);

/* cuda_memory.c */
int32_t twr_device_rest(const tw_plan *plan, Stream *stream, tw_error *error);
int32_t twr_device_stream(const tw_plan *plan, Context *context, tw_error *error);
void twr_device_forget_stream(const tw_plan *plan, Context *context);
int32_t twr_device_grow(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error);
int32_t twr_device_pin(const tw_plan *plan, Stream *stream, Block *block, size_t bytes, const char *what, tw_error *error);
int32_t twr_device_arena(const tw_plan *plan, Context *context, uint32_t depth, const Layout *layout, void **arena);
int32_t twr_device_allocate(const tw_plan *plan, void **memory, int64_t bytes, const char *what, tw_error *error);
void twr_device_release(const tw_plan *plan, const Stream *stream, void *memory);
void twr_free_late(const tw_plan *plan, Stream *stream);
uint32_t twr_stream_graphs(const Stream *stream);
int64_t twr_stream_bytes(const Stream *stream);

/* cuda_launch.c */
int32_t twr_device_launch(const tw_plan *plan, Context *context, const Entry *entry, uint32_t kernel, void *const *buffers,
                          const int64_t *dims, int64_t grid, int64_t scratch);
int32_t twr_device_copy(const tw_plan *plan, Context *context, void *to, uint32_t to_space, const void *from, uint32_t from_space,
                        size_t bytes);
int32_t twr_device_read(const tw_plan *plan, Context *context, void *to, const void *from, size_t bytes);
int32_t twr_device_settle(const tw_plan *plan, Context *context); /* the host may touch its memory of the run */
void twr_collect_profile(const tw_plan *plan, Stream *stream, tw_profile *profile);

/* cuda_graph.c */
int32_t twr_run_entry(tw_plan *plan, Context *context, uint32_t entry, Layout *layout, const Memory *inputs, Memory *outputs,
                      int64_t (*out_dims)[TW_MAX_RANK], bool direct);
void twr_forget_graphs(const tw_plan *plan, Stream *stream);

/* cuda_run.c */
int32_t twr_device_run(tw_pending *pending, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs,
                       const tw_run_options *options);
int32_t twr_device_done(tw_pending *pending, tw_error *error);
int32_t twr_device_wait(tw_pending *pending, tw_error *error);

/* runtime.c */
int32_t twr_describe_outputs(const Entry *entry, const Layout *layout, tw_tensor *outputs, tw_error *error);

/* Where an output on the host comes from, once the device is done. */
typedef struct {
    void *to;
    const void *from;
    int64_t bytes;
    bool from_device;
} Delivery;

struct tw_pending {
    tw_plan *plan;
    const char *entry;
    Context *context; /* NULL: it ran on the CPU and is done */
    Delivery *deliveries;
    uint32_t delivery_count;
    bool finished;
    int32_t code; /* of the finished run */
    tw_error error;
    double seconds;
};

#endif
