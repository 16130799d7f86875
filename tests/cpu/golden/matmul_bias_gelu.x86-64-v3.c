/* matmul_bias_gelu for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "matvec.h"

/* acc: few rows x pieces of columns, the whole depth, in registers. */
static __attribute__((noinline)) void tw_matmul_bias_gelu_acc_few(int64_t rows, int64_t columns, const float *a, const float *b, const float *second, float *c) {
    switch (rows) {
        case 1:
        {
            few_f32(1, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 2:
        {
            few_f32(2, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 3:
        {
            few_f32(3, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 4:
        {
            few_f32(2, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
            few_f32(2, 4, 1, TW_LANES, 1, 0, 384, a + 2 * 384, 384, 1, b, second, 32, c + 2 * 32, 32);
        }
        break;
        case 5:
        {
            few_f32(3, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
            few_f32(2, 4, 1, TW_LANES, 1, 0, 384, a + 3 * 384, 384, 1, b, second, 32, c + 3 * 32, 32);
        }
        break;
        case 6:
        {
            few_f32(3, 4, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
            few_f32(3, 4, 1, TW_LANES, 1, 0, 384, a + 3 * 384, 384, 1, b, second, 32, c + 3 * 32, 32);
        }
        break;
    }
}

/* acc: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_matmul_bias_gelu_acc(int64_t rows, int64_t columns, const float *a, const float *b, float *c) {
    switch (rows) {
        case 1: mma_f32(1, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
        case 2: mma_f32(2, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
        case 3: mma_f32(3, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
        case 4: mma_f32(4, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
        case 5: mma_f32(5, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
        case 6: mma_f32(6, 2, TW_LANES, 1, 384, a, 384, 1, b, 32, c, 32); break;
    }
}

void tw_matmul_bias_gelu(const tw_args *args, int64_t begin, int64_t end) {
    const float *const A = (const float *)args->buffer[0];
    const float *const B = (const float *)args->buffer[1];
    const float *const bias = (const float *)args->buffer[2];
    float *const C = (float *)args->buffer[3];
    const int64_t M = args->dim[0];
    for (int64_t block = begin; block < end; block++) {
        int64_t rest = block;
        const int64_t n0 = floor_mod(rest, 48) * 32;
        rest = floor_div(rest, 48);
        const int64_t m0_step = ceil_int(M, ceil_int(M, 48));
        const int64_t m0 = rest * m0_step;
        const int64_t m0_end = min_int(m0 + m0_step, M);
        /* for m from m1 in tile(m0, min(M, m0 + (M + (M + 47) // 48 - 1) // ((M + 47) // 48)), 6, balanced): */
        const int64_t m1_step = ceil_int(m0_end - m0, ceil_int(m0_end - m0, 6));
        for (int64_t m1 = m0; m1 < m0_end; m1 += m1_step) {
            const int64_t m1_end = min_int(m1 + m1_step, m0_end);
            TW_ALIGN float acc[200];
            /* acc[m, n] = sum(k, A[m, k] * B[n // 32, k, n % 32])  ?m */
            if (M <= 18) {
                tw_matmul_bias_gelu_acc_few(m1_end - m1, 32, A + m1 * 384, B + floor_mod(n0, 32) + floor_div(n0, 32) * 12288, B + floor_mod(n0, 32) + floor_div(n0, 32) * 12288 + 12288, acc + 0);
            }
            else {
                for (int64_t n_at = n0; n_at < n0 + 32; n_at += 16) {
                    const int64_t n_stop = n_at + 16;
                    tw_matmul_bias_gelu_acc(m1_end - m1, 16, A + m1 * 384, B + floor_mod(n_at, 32) + floor_div(n_at, 32) * 12288, acc + -n0 + n_at);
                }
            }
            /* y[m, n] = acc[m, n] + bias[n] */
            /* C[m, n] = y[m, n] * f32(0.5) * (f32(1.0) + erf(y[m, n] * f32(0.7071067811865476)))  ?m */
            {
                for (int64_t m = m1; m < m1_end; m++) {
                    for (int64_t n = n0; n < n0 + 32; n += TW_LANES) {
                        const f32v y_2 = (load_f32(acc + m * 32 - m1 * 32 + n - n0) + load_f32(bias + n));
                        store_f32(C + m * 1536 + n, ((y_2 * set_f32(0x1p-1f)) * (set_f32(1.0f) + erf_f32((y_2 * set_f32(0x1.6a09e6p-1f))))));
                    }
                }
            }
        }
    }
}
