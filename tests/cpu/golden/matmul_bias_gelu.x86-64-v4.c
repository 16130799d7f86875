/* matmul_bias_gelu for cpu:x86-64-v4, generated. */
#define TW_LANES 16
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
            few_f32(1, 2, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 2:
        {
            few_f32(2, 2, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 3:
        {
            few_f32(3, 2, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
        case 4:
        {
            few_f32(4, 2, 1, TW_LANES, 1, 0, 384, a, 384, 1, b, second, 32, c, 32);
        }
        break;
    }
}

/* acc: rows x columns of the result, a piece of the depth, in registers. */
TW_INLINE void tw_matmul_bias_gelu_acc_tile(const int rows, const int vectors, int64_t columns,
    int first, int last, const float *a, const float *b, float *c, const float *ahead, int64_t depth, int64_t a_row) {
    f32v sum[TW_MOST_ROWS][TW_MOST_VECTORS];
    start_sums_f32(rows, vectors, first, c, 32, sum);
    add_rows_f32(rows, vectors, depth, a, a_row, b, 32, ahead, sum);
    keep_sums_f32(rows, vectors, sum, c, 32);
}
static __attribute__((noinline)) void tw_matmul_bias_gelu_acc(int64_t rows, int64_t columns,
    int first, int last, const float *a, const float *b, float *c, const float *ahead, int64_t depth, int64_t a_row) {
    switch (rows) {
        case 1: tw_matmul_bias_gelu_acc_tile(1, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 2: tw_matmul_bias_gelu_acc_tile(2, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 3: tw_matmul_bias_gelu_acc_tile(3, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 4: tw_matmul_bias_gelu_acc_tile(4, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 5: tw_matmul_bias_gelu_acc_tile(5, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 6: tw_matmul_bias_gelu_acc_tile(6, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 7: tw_matmul_bias_gelu_acc_tile(7, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 8: tw_matmul_bias_gelu_acc_tile(8, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 9: tw_matmul_bias_gelu_acc_tile(9, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 10: tw_matmul_bias_gelu_acc_tile(10, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 11: tw_matmul_bias_gelu_acc_tile(11, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 12: tw_matmul_bias_gelu_acc_tile(12, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 13: tw_matmul_bias_gelu_acc_tile(13, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
        case 14: tw_matmul_bias_gelu_acc_tile(14, 2, columns, first, last, a, b, c, ahead, depth, a_row); break;
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
        const int64_t m0_step = ceil_int(ceil_int(M, ceil_int(M, 126)), 14) * 14;
        const int64_t m0 = rest * m0_step;
        const int64_t m0_end = min_int(m0 + m0_step, M);
        TW_ALIGN float acc[4048];
        if (M <= 4) {
            for (int64_t m_at = m0; m_at < m0_end; m_at += 14) {
                const int64_t m_stop = min_int(m_at + 14, m0_end);
                tw_matmul_bias_gelu_acc_few(m_stop - m_at, 32, A + m_at * 384, B + floor_mod(n0, 32) + floor_div(n0, 32) * 12288, B + floor_mod(n0, 32) + floor_div(n0, 32) * 12288 + 12288, acc + -m0 * 32 + m_at * 32);
            }
        }
        else {
            /* acc[m, n] = sum(k, A[m, k] * B[n // 32, k, n % 32])  ?m */
            {
                const int64_t count = m0_end - m0;
                const int64_t pieces = ceil_int(count, 14);
                for (int64_t panel = n0; panel < n0 + 32; panel += 32) {
                    for (int64_t depth = 0; depth < 384; depth += 192) {
                        const int64_t taps = 1, deep = min_int(192, 384 - depth);
                        const int first = depth == 0, last = depth + 192 >= 384;
                        for (int64_t column = panel; column < min_int(panel + 32, n0 + 32); column += 32) {
                            const float *const strip = B + floor_mod(column, 32) + floor_div(column, 32) * 12288 + depth * 32;
                            const float *const near = strip + taps * deep * 32 - (column - panel);
                            for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                                stop = row + count / pieces + (piece < count % pieces);
                                const float *const left = A + row * 384 + depth;
                                tw_matmul_bias_gelu_acc(stop - row, n0 + 32 - column, first, last, left, strip, acc + column - m0 * 32 - n0 + row * 32, near + piece * (taps * deep / 8) * 32, deep, 384);
                            }
                        }
                    }
                }
            }
        }
        /* y[m, n] = acc[m, n] + bias[n] */
        /* C[m, n] = y[m, n] * f32(0.5) * (f32(1.0) + erf(y[m, n] * f32(0.7071067811865476)))  ?m */
        {
            for (int64_t m = m0; m < m0_end; m++) {
                {
                    int64_t n = n0;
                    for (; n < n0 + 32; n += 16) {
                        const f32v y_2 = (load_f32(acc + m * 32 - m0 * 32 + n - n0) + load_f32(bias + n));
                        store_f32(C + m * 1536 + n, ((y_2 * set_f32(0x1p-1f)) * (set_f32(1.0f) + erf_f32((y_2 * set_f32(0x1.6a09e6p-1f))))));
                    }
                }
            }
        }
    }
}
