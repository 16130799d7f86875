// A model of the part of Ascend C that generated kernels use, to run them on a CPU: the documented names and
// signatures, with the arithmetic of backends/ascend/placed/instructions.py. Pipes run in program order; what such a
// model can check is checked: bounds, alignment, limits of parameters, element types, balance of flags.
// It serves tests; nothing here is taken from CANN.
#ifndef KERNEL_OPERATOR_H
#define KERNEL_OPERATOR_H

#ifndef __NPU_ARCH__
#define __NPU_ARCH__ 2201
#endif

#include "model_core.h"
#include "model_numbers.h"
#include "model_tensor.h"
#include "model_sync.h"
#include "model_transfer.h"
#include "model_cube.h"
#include "model_lanes.h"
#include "model_vector.h"
#include "model_cast.h"
#include "model_reduce.h"
#include "model_launch.h"

#endif
