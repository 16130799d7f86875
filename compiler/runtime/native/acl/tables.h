/* What was written for this model by the export: its weights' places and the kernels that its host runs. */
#ifndef TABLES_H
#define TABLES_H

#include "runtime/tilewright.h"

extern const tw_weight tw_weight_table[]; /* in ascending order of name */
extern const uint32_t tw_weight_count;
extern const uint64_t tw_weight_bytes;
extern const tw_kernel *const tw_host_kernels; /* NULL where the host runs none */
extern const uint32_t tw_host_kernel_count;

#endif
