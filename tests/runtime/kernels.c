/* Hand-written kernels for the tests of plan, artifact and runtime. */
#include "kernel_abi.h"

#define BLOCK 256

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* out[i] = a[i] + b[i], BLOCK elements to a block. dims: n */
static void add(const tw_args *p, int64_t begin, int64_t end) {
    const float *a = p->buffer[0], *b = p->buffer[1];
    float *out = p->buffer[2];
    for (int64_t i = begin * BLOCK; i < least(end * BLOCK, p->dim[0]); i++) out[i] = a[i] + b[i];
}

/* C[m, n] = sum(k, A[m, k] * B[k, n]), a row to a block, through scratch. dims: K, N */
static void matmul(const tw_args *p, int64_t begin, int64_t end) {
    const float *a = p->buffer[0], *b = p->buffer[1];
    float *c = p->buffer[2], *row = p->scratch;
    int64_t K = p->dim[0], N = p->dim[1];
    for (int64_t m = begin; m < end; m++) {
        for (int64_t n = 0; n < N; n++) row[n] = 0;
        for (int64_t k = 0; k < K; k++)
            for (int64_t n = 0; n < N; n++) row[n] += a[m * K + k] * b[k * N + n];
        for (int64_t n = 0; n < N; n++) c[m * N + n] = row[n];
    }
}

/* out[i] = max(a[i], 0). dims: n */
static void relu(const tw_args *p, int64_t begin, int64_t end) {
    const float *a = p->buffer[0];
    float *out = p->buffer[1];
    for (int64_t i = begin * BLOCK; i < least(end * BLOCK, p->dim[0]); i++) out[i] = a[i] > 0 ? a[i] : 0;
}

/* count[0] = how many of a[0..n) are not 0. dims: n */
static void count(const tw_args *p, int64_t begin, int64_t end) {
    const float *a = p->buffer[0];
    int64_t *out = p->buffer[1];
    (void)begin;
    (void)end;
    out[0] = 0;
    for (int64_t i = 0; i < p->dim[0]; i++) out[0] += a[i] != 0;
}

/* out = those of a[0..n) that are not 0. dims: n */
static void keep(const tw_args *p, int64_t begin, int64_t end) {
    const float *a = p->buffer[0];
    float *out = p->buffer[1];
    (void)begin;
    (void)end;
    for (int64_t i = 0; i < p->dim[0]; i++)
        if (a[i] != 0) *out++ = a[i];
}

/* state[i] = 2 * state[i] + x[i]. dims: n */
static void accumulate(const tw_args *p, int64_t begin, int64_t end) {
    float *state = p->buffer[0];
    const float *x = p->buffer[1];
    for (int64_t i = begin * BLOCK; i < least(end * BLOCK, p->dim[0]); i++) state[i] = 2 * state[i] + x[i];
}

TW_KERNEL_EXPORT const tw_kernel TW_KERNELS[] = {add, matmul, relu, count, keep, accumulate};
TW_KERNEL_EXPORT const uint32_t TW_KERNEL_COUNT = sizeof TW_KERNELS / sizeof *TW_KERNELS;
