/* How the executor starts the kernels of a project: the table that launches.c has. */
#ifndef TILEWRIGHT_LAUNCHES_H
#define TILEWRIGHT_LAUNCHES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Puts one kernel into a stream on `blocks` blocks. `buffer` and `dim` are in the order of the kernel's parameters and
 * dimension symbols; `workspace` and `fault` are used where the kernel has them. 0, or what the launch returned. */
typedef uint32_t (*tw_launch)(uint32_t blocks, void *stream, void *const *buffer, void *workspace, void *fault, const int64_t *dim);

typedef struct {
    const char *name;
    tw_launch launch;
    uint32_t buffers, dims;     /* that a launch must give */
    uint32_t blocks;            /* of the device for each group of cores that the plan counts */
    uint32_t workspace, fault;  /* 1 where the kernel takes one */
} tw_launch_entry;

typedef struct {
    uint32_t size, count; /* sizeof(tw_launches), and of `kernel` */
    const char *target;   /* what the kernels are for */
    const tw_launch_entry *kernel;
} tw_launches;

extern const tw_launches tw_launch_table;

#ifdef __cplusplus
}
#endif
#endif
