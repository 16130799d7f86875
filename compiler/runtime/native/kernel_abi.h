/* The calling convention between the plan executor and CPU kernels, version 1.
 *
 * A kernel library is pure code: no threads, no allocation, no input or output, no global state that is written.
 * It exports exactly two symbols, `tw_kernels_v1` and `tw_kernel_count_v1`; the plan names kernels by index into the
 * first. It may need memcpy, memmove, memset and memcmp of the C library, nothing else.
 */
#ifndef TILEWRIGHT_KERNEL_ABI_H
#define TILEWRIGHT_KERNEL_ABI_H

#include <stdint.h>

#define TW_KERNEL_ABI_VERSION 1
#define TW_ALIGNMENT 64

/* What a kernel is given; valid during the call only.
 *
 * buffer   in the order of the kernel's parameters. Constants, temporaries and `scratch` start at multiples of
 *          TW_ALIGNMENT (a view: plus its offset); inputs and outputs only at multiples of their element size.
 *          No byte outside a buffer may be read or written. Inputs and constants are read only. Two buffers of one
 *          launch overlap only where the plan says so.
 * dim      values of the kernel's dimension symbols, in its order.
 * scratch  the launch's scratch bytes, of this worker alone, with undefined contents at the start of the call;
 *          NULL when the launch asks for none.
 * fault    where a kernel that meets a run-time index outside its tensor stores 1 (any worker, any number of times; a
 *          relaxed atomic store). It reads element 0 instead and goes on; the executor then refuses the run.
 */
typedef struct tw_args {
    void *const *buffer;
    const int64_t *dim;
    void *scratch;
    int32_t *fault;
} tw_args;

/* Computes blocks [begin, end) of the grid, 0 <= begin < end <= grid. Blocks are independent: any split of the grid
 * over calls and threads, in any order, must give the same bytes. Floating point runs in the default environment
 * (round to nearest even, no flushing of subnormal numbers, no traps). */
typedef void (*tw_kernel)(const tw_args *args, int64_t begin, int64_t end);

/* A kernel library defines these two and hides everything else (-fvisibility=hidden). */
#if defined(__GNUC__)
#define TW_KERNEL_EXPORT __attribute__((visibility("default")))
#else
#define TW_KERNEL_EXPORT
#endif
#define TW_KERNELS tw_kernels_v1
#define TW_KERNEL_COUNT tw_kernel_count_v1
extern TW_KERNEL_EXPORT const tw_kernel TW_KERNELS[];
extern TW_KERNEL_EXPORT const uint32_t TW_KERNEL_COUNT;

#endif
