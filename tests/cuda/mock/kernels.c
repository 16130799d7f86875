/* Kernels of the mock: the operations of tests/runtime/kernels.c as a GPU would be given them, and some for the runtime. */
#include <string.h>

#include "mock.h"

#define F32(param, count) ((float *)mock_at(l, param, (size_t)(count) * 4))

/* a, b, out, n */
static void add(const Launch *l) {
    int64_t n = (int32_t)l->param[3];
    const float *a = F32(0, n), *b = F32(1, n);
    float *out = F32(2, n);
    for (int64_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

/* A, B, C, K, N, workspace: a row of scratch */
static void matmul(const Launch *l) {
    int64_t k = (int32_t)l->param[3], n = (int32_t)l->param[4];
    const float *a = F32(0, l->grid * k), *b = F32(1, k * n);
    float *c = F32(2, l->grid * n), *row = F32(5, n);
    for (int64_t m = 0; m < l->grid; m++) {
        for (int64_t j = 0; j < n; j++) row[j] = 0;
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = 0; j < n; j++) row[j] += a[m * k + i] * b[i * n + j];
        for (int64_t j = 0; j < n; j++) c[m * n + j] = row[j];
    }
}

/* a, out, n */
static void relu(const Launch *l) {
    int64_t n = (int64_t)l->param[2];
    const float *a = F32(0, n);
    float *out = F32(1, n);
    for (int64_t i = 0; i < n; i++) out[i] = a[i] > 0 ? a[i] : 0;
}

/* a, count, n */
static void count(const Launch *l) {
    int64_t n = (int32_t)l->param[2], found = 0;
    const float *a = F32(0, n);
    for (int64_t i = 0; i < n; i++) found += a[i] != 0;
    memcpy(mock_at(l, 1, 8), &found, 8);
}

/* a, out, n */
static void keep(const Launch *l) {
    int64_t n = (int32_t)l->param[2], found = 0;
    const float *a = F32(0, n);
    for (int64_t i = 0; i < n; i++) found += a[i] != 0;
    float *out = F32(1, found);
    for (int64_t i = 0; i < n; i++)
        if (a[i] != 0) *out++ = a[i];
}

/* state, x, n */
static void accumulate(const Launch *l) {
    int64_t n = (int32_t)l->param[2];
    float *state = F32(0, n);
    const float *x = F32(1, n);
    for (int64_t i = 0; i < n; i++) state[i] = 2 * state[i] + x[i];
}

/* table, index, out, n (of the table), fault: out[0] = table[index[0]] */
static void select_one(const Launch *l) {
    int64_t n = (int32_t)l->param[3], at;
    const float *table = F32(0, n);
    memcpy(&at, mock_at(l, 1, 8), 8);
    if (at < 0 || at >= n) {
        *(int32_t *)mock_at(l, 4, 4) = 1;
        at = 0;
    }
    F32(2, 1)[0] = table[at];
}

/* x, out, n, workspace: counters are zero, and are left so; the rest of the workspace is dirtied */
static void split(const Launch *l, size_t counters, size_t scratch) {
    unsigned char *work = mock_at(l, 3, scratch);
    int64_t n = (int32_t)l->param[2];
    for (size_t i = 0; i < counters; i++)
        if (work[i] != 0) {
            mock_broken("counter byte %zu of %zu is %d when a kernel starts", i, counters, work[i]);
            break;
        }
    memset(work + counters, 0xA5, scratch - counters);
    memcpy(F32(1, n), F32(0, n), (size_t)n * 4);
}

static void split64(const Launch *l) { split(l, 64, 4096); }
static void split512(const Launch *l) { split(l, 512, 2048); }

/* x, out, n, global scratch of 256 bytes a program, profile scratch of 64 */
static void scratched(const Launch *l) {
    int64_t n = (int32_t)l->param[2];
    memset(mock_at(l, 3, (size_t)l->grid * 256), 1, (size_t)l->grid * 256);
    memset(mock_at(l, 4, (size_t)l->grid * 64), 2, (size_t)l->grid * 64);
    memcpy(F32(1, n), F32(0, n), (size_t)n * 4);
}

const MockKernel mock_kernels[] = {
    {"add", "pppipp", add, 1024, 0},         {"matmul", "pppiippp", matmul, 1024, 1024},
    {"relu", "pplpp", relu, 1024, 0},        {"count", "ppipp", count, 1024, 0},
    {"keep", "ppipp", keep, 1024, 0},        {"accumulate", "ppipp", accumulate, 1024, 0},
    {"select", "pppippp", select_one, 1024, 0}, {"split64", "ppippp", split64, 1024, 0},
    {"split512", "ppippp", split512, 512, 0}, {"scratched", "ppipp", scratched, 1024, 0},
    {NULL, NULL, NULL, 0, 0},
};
