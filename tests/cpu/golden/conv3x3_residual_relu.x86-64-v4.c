/* conv3x3_residual_relu for cpu:x86-64-v4, generated. */
#define TW_LANES 16
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"

static TW_ALIGN float X_zeros[64];
/* acc: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_conv3x3_residual_relu_acc(int64_t rows, int64_t columns, const float *const *a, const float *b, float *c) {
    switch (rows) {
        case 1: mma_runs_f32(1, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 2: mma_runs_f32(2, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 3: mma_runs_f32(3, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 4: mma_runs_f32(4, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 5: mma_runs_f32(5, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 6: mma_runs_f32(6, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 7: mma_runs_f32(7, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 8: mma_runs_f32(8, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 9: mma_runs_f32(9, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 10: mma_runs_f32(10, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 11: mma_runs_f32(11, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 12: mma_runs_f32(12, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 13: mma_runs_f32(13, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
        case 14: mma_runs_f32(14, 2, TW_LANES, 1, 9, 64, a, 126, 0, b, 2048, 32, c, 32); break;
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
                {
                    const int64_t ow_count = 28 - 0, ow_pieces = ceil_int(ow_count, 14);
                    for (int64_t ow_piece = 0, ow_at = 0, ow_stop; ow_piece < ow_pieces; ow_piece++, ow_at = ow_stop) {
                        ow_stop = ow_at + ow_count / ow_pieces + (ow_piece < ow_count % ow_pieces);
                        tw_conv3x3_residual_relu_acc(ow_stop - ow_at, 32, X_pointers + b * 1134 - b0 * 1134 + oh * 1134 - oh0 * 1134 + ow_at, W + floor_mod(o0, 32) + floor_div(o0, 32) * 18432, acc + ow_at * 32);
                    }
                }
            }
            /* z[b, oh, ow, o] = acc[b, oh, ow, o] + bias[o] + R[b, oh, ow, o]  ?ow */
            /* Y[b, oh, ow, o] = max(z[b, oh, ow, o], f32(0.0))  ?ow */
            {
                const int64_t b = b0;
                const int64_t oh = oh0;
                for (int64_t ow = 0; ow < 28; ow++) {
                    for (int64_t o = o0; o < o0 + 32; o += TW_LANES) {
                        const f32v z_2 = ((load_f32(acc + o - o0 + ow * 32) + load_f32(bias + o)) + load_f32(R + b * 100352 + o + oh * 3584 + ow * 128));
                        store_f32(Y + b * 100352 + o + oh * 3584 + ow * 128, max_f32(z_2, set_f32(0.0f)));
                    }
                }
            }
        }
    }
}
