/* The part of NVIDIA's driver API that is used, declared by us: types, constants and typed function pointers.
 *
 * Names and numbers are those of the CUDA driver API reference (tests compare them with a public cuda.h where there is
 * one). Functions are found by name in the opened library, in the versions that the `_v2` suffixes name. */
#ifndef TILEWRIGHT_CUDA_DRIVER_H
#define TILEWRIGHT_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "tilewright.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct {
    char bytes[16];
} CUuuid;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
};
enum {
    CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
    CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};
enum {
    CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
};
enum {
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_POINTER_ATTRIBUTE_IS_MANAGED = 8,
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
};
enum { CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2 };
enum { CU_MEMHOSTALLOC_PORTABLE = 1, CU_MEMHOSTALLOC_DEVICEMAP = 2 };
enum { CU_STREAM_NON_BLOCKING = 1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1, CU_STREAM_CAPTURE_STATUS_NONE = 0 };
enum { CU_EVENT_DEFAULT = 0, CU_EVENT_DISABLE_TIMING = 2 };
enum { CU_JIT_ERROR_LOG_BUFFER = 5, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 };

#define DYNAMIC_SHARED_DEFAULT 49152u /* bytes; a kernel that wants more must opt in */
#define DRIVER_LEAST 11040            /* CUDA 11.4, for cuGraphInstantiateWithFlags and cuDeviceGetUuid_v2 */

/* name, parameters; all return CUresult */
#define CUDA_FUNCTIONS(X)                                                                                              \
    X(cuInit, (unsigned flags))                                                                                        \
    X(cuDriverGetVersion, (int *version))                                                                              \
    X(cuGetErrorName, (CUresult code, const char **text))                                                              \
    X(cuGetErrorString, (CUresult code, const char **text))                                                            \
    X(cuDeviceGetCount, (int *count))                                                                                  \
    X(cuDeviceGet, (CUdevice *device, int ordinal))                                                                    \
    X(cuDeviceGetName, (char *name, int length, CUdevice device))                                                      \
    X(cuDeviceGetUuid_v2, (CUuuid *uuid, CUdevice device))                                                             \
    X(cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                                              \
    X(cuDeviceTotalMem_v2, (size_t *bytes, CUdevice device))                                                           \
    X(cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device))                                                 \
    X(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                                                 \
    X(cuCtxPushCurrent_v2, (CUcontext context))                                                                        \
    X(cuCtxPopCurrent_v2, (CUcontext *context))                                                                        \
    X(cuCtxSynchronize, (void))                                                                                        \
    X(cuMemGetInfo_v2, (size_t *free, size_t *total))                                                                  \
    X(cuMemAlloc_v2, (CUdeviceptr *memory, size_t bytes))                                                              \
    X(cuMemFree_v2, (CUdeviceptr memory))                                                                              \
    X(cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags))                                                   \
    X(cuMemFreeHost, (void *memory))                                                                                   \
    X(cuMemHostGetDevicePointer_v2, (CUdeviceptr *device, void *host, unsigned flags))                                 \
    X(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                         \
    X(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                               \
    X(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                         \
    X(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))                           \
    X(cuPointerGetAttributes, (unsigned count, int *attributes, void **data, CUdeviceptr pointer))                     \
    X(cuModuleLoadDataEx, (CUmodule *module, const void *image, unsigned options, int *names, void **values))          \
    X(cuModuleUnload, (CUmodule module))                                                                               \
    X(cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name))                                  \
    X(cuFuncGetAttribute, (int *value, int attribute, CUfunction function))                                            \
    X(cuFuncSetAttribute, (CUfunction function, int attribute, int value))                                             \
    X(cuLaunchKernel, (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,       \
                       unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **params,            \
                       void **extra))                                                                                  \
    X(cuStreamCreate, (CUstream *stream, unsigned flags))                                                              \
    X(cuStreamDestroy_v2, (CUstream stream))                                                                           \
    X(cuStreamSynchronize, (CUstream stream))                                                                          \
    X(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                                             \
    X(cuStreamIsCapturing, (CUstream stream, int *status))                                                             \
    X(cuStreamBeginCapture_v2, (CUstream stream, int mode))                                                            \
    X(cuStreamEndCapture, (CUstream stream, CUgraph *graph))                                                           \
    X(cuGraphInstantiateWithFlags, (CUgraphExec *exec, CUgraph graph, unsigned long long flags))                       \
    X(cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                                              \
    X(cuGraphExecDestroy, (CUgraphExec exec))                                                                          \
    X(cuGraphDestroy, (CUgraph graph))                                                                                 \
    X(cuEventCreate, (CUevent *event, unsigned flags))                                                                 \
    X(cuEventDestroy_v2, (CUevent event))                                                                              \
    X(cuEventRecord, (CUevent event, CUstream stream))                                                                 \
    X(cuEventQuery, (CUevent event))                                                                                   \
    X(cuEventSynchronize, (CUevent event))                                                                             \
    X(cuEventElapsedTime, (float *milliseconds, CUevent start, CUevent end))

/* Found where the driver is new enough: cuFuncGetParamInfo since CUDA 12.4. */
#define CUDA_OPTIONAL_FUNCTIONS(X) X(cuFuncGetParamInfo, (CUfunction function, size_t index, size_t *offset, size_t *bytes))

typedef struct {
    void *library;
    int version; /* CUDA version that it supports */
#define MEMBER(name, parameters) CUresult(*name) parameters;
    CUDA_FUNCTIONS(MEMBER)
    CUDA_OPTIONAL_FUNCTIONS(MEMBER)
#undef MEMBER
} Driver;

int32_t twr_driver_open(Driver *driver, const char *library, int32_t needed, tw_error *error);
void twr_driver_close(Driver *driver);
/* The error of a driver call: TW_RESOURCE for memory, else TW_DEVICE. `about` names what it was for, or is "". */
int32_t twr_driver_fail(const Driver *driver, CUresult code, const char *call, const char *about, tw_error *error);

/* Calls a function of the driver in a function that returns a TW_… code. */
#define CUDA(driver, error, name, about, ...)                                                            \
    do {                                                                                                 \
        CUresult cuda_code = (driver)->name(__VA_ARGS__);                                                \
        if (cuda_code != CUDA_SUCCESS) return twr_driver_fail((driver), cuda_code, #name, (about), (error)); \
    } while (0)

#endif
