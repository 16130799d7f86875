/* A stand-in for NVIDIA's driver that checks how it is used and computes on the CPU. For tests.
 *
 * Work in a stream waits until somebody synchronizes with it, and device memory cannot be touched in between: what a run
 * forgets to wait for goes wrong here. Every rule that is broken is written down and makes the test fail. */
#ifndef MOCK_H
#define MOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda_driver.h"

#define PARAMS_MOST 128

typedef struct {
    unsigned grid, block, shared;
    uint64_t param[PARAMS_MOST];
} Launch;

/* A kernel that the mock can run. `sizes` has a letter for each parameter: p a pointer, i 32 bits, l 64 bits. */
typedef struct {
    const char *name, *sizes;
    void (*run)(const Launch *launch);
    int threads; /* most of a block */
    int shared;  /* static */
} MockKernel;

extern const MockKernel mock_kernels[];

/* Lets the mock compute the kernels of real cubins with this entry point, which are otherwise only looked at. */
#define MOCK_EXPORT __attribute__((visibility("default")))
MOCK_EXPORT void mock_register(const char *name, void (*run)(const Launch *launch));

/* Bytes from an address to the end of the allocation that it lies in; 0 outside of all. */
MOCK_EXPORT size_t mock_extent(const void *address);

/* The memory behind a pointer parameter, which must have `bytes`; the kernel is left where it has not. */
void *mock_at(const Launch *launch, int param, size_t bytes);
bool mock_read_cubin(const unsigned char *elf, MockKernel *kernel, char name[128], char sizes[PARAMS_MOST + 1]);
void mock_broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
