/* conv3x3_residual_relu for cpu:x86-64-v4, generated. */
#define TW_LANES 16
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"

static TW_ALIGN float X_zeros[64];
/* acc: rows x columns of the result, a piece of the depth, in registers. */
TW_INLINE void tw_conv3x3_residual_relu_acc_tile(const int rows, const int vectors, int64_t columns,
    int first, int last, const float *const *a, const float *b, float *c, const float *ahead, int64_t taps, int64_t depth, int64_t shift, const tw_args *args, int64_t ow_at, int64_t o_at, int64_t b_here, int64_t oh) {
    f32v sum[TW_MOST_ROWS][TW_MOST_VECTORS];
    if (last) {
        const float *const bias = (const float *)args->buffer[2];
        const float *const R = (const float *)args->buffer[3];
        float *const Y = (float *)args->buffer[4];
        TW_UNROLL TW_FOR(i, rows) {
            const int64_t ow = ow_at + i, o = o_at;
            __builtin_prefetch(R + b_here * 100352 + o + oh * 3584 + ow * 128, 0, 3);
            __builtin_prefetch(Y + b_here * 100352 + o + oh * 3584 + ow * 128, 1, 3);
        }
    }
    start_sums_f32(rows, vectors, first, c, 32, sum);
    add_runs_f32(rows, vectors, taps, depth, a, 126, shift, b, 2048, 32, ahead, sum);
    if (!last) {
        keep_sums_f32(rows, vectors, sum, c, 32);
        return;
    }
    const float *const bias = (const float *)args->buffer[2];
    const float *const R = (const float *)args->buffer[3];
    float *const Y = (float *)args->buffer[4];
    TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows) {
        const int64_t ow = ow_at + i, o = o_at + j * TW_LANES;
        const f32v z_2 = ((sum[i][j] + load_f32(bias + o)) + load_f32(R + b_here * 100352 + o + oh * 3584 + ow * 128));
        store_f32(Y + b_here * 100352 + o + oh * 3584 + ow * 128, at_least_f32(set_f32(0.0f), z_2));
    }
}
static __attribute__((noinline)) void tw_conv3x3_residual_relu_acc(int64_t rows, int64_t columns,
    int first, int last, const float *const *a, const float *b, float *c, const float *ahead, int64_t taps, int64_t depth, int64_t shift, const tw_args *args, int64_t ow_at, int64_t o_at, int64_t b_here, int64_t oh) {
    switch (rows) {
        case 1: tw_conv3x3_residual_relu_acc_tile(1, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 2: tw_conv3x3_residual_relu_acc_tile(2, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 3: tw_conv3x3_residual_relu_acc_tile(3, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 4: tw_conv3x3_residual_relu_acc_tile(4, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 5: tw_conv3x3_residual_relu_acc_tile(5, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 6: tw_conv3x3_residual_relu_acc_tile(6, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 7: tw_conv3x3_residual_relu_acc_tile(7, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 8: tw_conv3x3_residual_relu_acc_tile(8, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 9: tw_conv3x3_residual_relu_acc_tile(9, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 10: tw_conv3x3_residual_relu_acc_tile(10, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 11: tw_conv3x3_residual_relu_acc_tile(11, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 12: tw_conv3x3_residual_relu_acc_tile(12, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 13: tw_conv3x3_residual_relu_acc_tile(13, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
        case 14: tw_conv3x3_residual_relu_acc_tile(14, 2, columns, first, last, a, b, c, ahead, taps, depth, shift, args, ow_at, o_at, b_here, oh); break;
    }
}

void tw_conv3x3_residual_relu(const tw_args *args, int64_t begin, int64_t end) {
    const float *const X = (const float *)args->buffer[0];
    const float *const W = (const float *)args->buffer[1];
    const float *const bias = (const float *)args->buffer[2];
    const float *const R = (const float *)args->buffer[3];
    float *const Y = (float *)args->buffer[4];
    const int64_t B = args->dim[0];
    for (int64_t block = begin; block < end; block++) {
        int64_t rest = block;
        const int64_t oh0 = floor_mod(rest, 28);
        rest = floor_div(rest, 28);
        const int64_t b0 = rest;
        /* X_pointers: where the runs along c begin of X_pointers[b, oh, ow, kh, kw, c] = (X[b, kh + 2*oh - 1, kw + 2*ow - 1, c] or 0) */
        TW_ALIGN const float * X_pointers[1134];
        {
            const int64_t b = b0;
            const int64_t oh = oh0;
            for (int64_t ow = 0; ow < 28; ow++) {
                for (int64_t kh = 0; kh < 3; kh++) {
                    for (int64_t kw = 0; kw < 3; kw++) {
                        const int inside = (uint64_t)(kh + oh * 2 - 1) < (uint64_t)(56) && (uint64_t)(kw + ow * 2 - 1) < (uint64_t)(56);
                        X_pointers[b * 1134 - b0 * 1134 + kh * 378 + kw * 126 + oh * 1134 - oh0 * 1134 + ow] = inside ? X + b * 200704 + kh * 3584 + kw * 64 + oh * 7168 + ow * 128 - 3648 : X_zeros;
                    }
                }
            }
        }
        /* for o from o0 in tile(0, 128, 32): */
        for (int64_t o0 = 0; o0 < 128; o0 += 32) {
            TW_ALIGN float acc[4048];
            /* acc[b, oh, ow, o] = sum((kh, kw, c), X_pointers[b, oh, ow, kh, kw, c] * W[o // 32, kh, kw, c, o % 32]) */
            {
                const int64_t b = b0;
                const int64_t oh = oh0;
                const int64_t count = 28 - 0;
                const int64_t pieces = ceil_int(count, 14);
                for (int64_t panel = o0; panel < o0 + 32; panel += 32) {
                    for (int64_t tap = 0; tap < 9; tap += 3) {
                        const int64_t taps = min_int(3, 9 - tap), deep = 64;
                        const int first = tap == 0, last = tap + 3 >= 9;
                        for (int64_t column = panel; column < min_int(panel + 32, o0 + 32); column += 32) {
                            const float *const strip = W + floor_mod(column, 32) + floor_div(column, 32) * 18432 + tap * 2048;
                            const float *const near = strip + taps * deep * 32 - (column - panel);
                            for (int64_t piece = 0, row = 0, stop; piece < pieces; piece++, row = stop) {
                                stop = row + count / pieces + (piece < count % pieces);
                                const float *const *const left = X_pointers + b * 1134 - b0 * 1134 + oh * 1134 - oh0 * 1134 + row + tap * 126;
                                tw_conv3x3_residual_relu_acc(stop - row, o0 + 32 - column, first, last, left, strip, acc + column - o0 + row * 32, near + piece * (taps * deep / 8) * 32, taps, deep, 0, args, row, column, b, oh);
                            }
                        }
                    }
                }
            }
        }
    }
}
