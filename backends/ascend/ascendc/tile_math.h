// Index arithmetic of the generated kernels.
#ifndef TILEWRIGHT_TILE_MATH_H
#define TILEWRIGHT_TILE_MATH_H

#include "kernel_operator.h"

constexpr float INF = __builtin_inff();
constexpr float NOT_A_NUMBER = __builtin_nanf("");

__aicore__ inline int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__aicore__ inline int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Quotients towards plus infinity, for b > 0.
__aicore__ inline int64_t CeilDiv(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
__aicore__ inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Quotient and remainder towards minus infinity, for b > 0.
__aicore__ inline int64_t FloorDiv(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
__aicore__ inline int64_t FloorMod(int64_t a, int64_t b) { return a - FloorDiv(a, b) * b; }

#endif
