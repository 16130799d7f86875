/* conv3x3_residual_relu for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"

/* acc: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_conv3x3_residual_relu_acc(int64_t rows, int64_t columns, const float *a, const float *b, float *c) {
    switch (rows) {
        case 1: mma_f32(1, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
        case 2: mma_f32(2, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
        case 3: mma_f32(3, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
        case 4: mma_f32(4, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
        case 5: mma_f32(5, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
        case 6: mma_f32(6, 2, TW_LANES, 0, 64, a, 64, 1, b, 32, c, 32); break;
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
        const int64_t o0 = floor_mod(rest, 4) * 32;
        rest = floor_div(rest, 4);
        const int64_t oh0 = floor_mod(rest, 28);
        rest = floor_div(rest, 28);
        const int64_t b0 = rest;
        /* for ow from ow1 in tile(0, 28, 6, balanced): */
        for (int64_t ow1 = 0; ow1 < 28; ow1 += 6) {
            const int64_t ow1_end = min_int(ow1 + 6, 28);
            TW_ALIGN float acc[200];
            /* acc[b, oh, ow, o] = sum((kh, kw, c), (X[b, kh + 2*oh - 1, kw + 2*ow - 1, c] or 0) * W[o // 32, kh, kw, c, o % 32]) */
            {
                const int64_t b = b0;
                const int64_t oh = oh0;
                {
                    for (int64_t ow = ow1; ow < ow1_end; ow++) {
                        for (int64_t o = o0; o < o0 + 32; o += TW_LANES) {
                            store_f32(acc + o - o0 + ow * 32 - ow1 * 32, set_f32(0.0f));
                        }
                    }
                }
                for (int64_t kh = 0; kh < 3; kh++) {
                    for (int64_t kw = 0; kw < 3; kw++) {
                        for (int64_t o_at = o0; o_at < o0 + 32; o_at += 16) {
                            const int64_t o_stop = o_at + 16;
                            TW_ALIGN float acc_a[392];
                            {
                                for (int64_t ow = ow1; ow < ow1_end; ow++) {
                                    for (int64_t c = 0; c < 64; c += TW_LANES) {
                                        const int inside = (uint64_t)(kh + oh * 2 - 1) < (uint64_t)(56) && (uint64_t)(kw + ow * 2 - 1) < (uint64_t)(56);
                                        store_f32(acc_a + c + ow * 64 - ow1 * 64, (inside ? load_f32(X + b * 200704 + c + kh * 3584 + kw * 64 + oh * 7168 + ow * 128 - 3648) : set_f32(0.0f)));
                                    }
                                }
                            }
                            tw_conv3x3_residual_relu_acc(ow1_end - ow1, 16, acc_a + 0, W + kh * 6144 + kw * 2048 + floor_mod(o_at, 32) + floor_div(o_at, 32) * 18432, acc + -o0 + o_at);
                        }
                    }
                }
            }
            /* z[b, oh, ow, o] = acc[b, oh, ow, o] + bias[o] + R[b, oh, ow, o]  ?ow */
            /* Y[b, oh, ow, o] = max(z[b, oh, ow, o], f32(0.0))  ?ow */
            {
                const int64_t b = b0;
                const int64_t oh = oh0;
                for (int64_t ow = ow1; ow < ow1_end; ow++) {
                    {
                        int64_t o = o0;
                        for (; o < o0 + 32; o += 8) {
                            const f32v z_2 = ((load_f32(acc + o - o0 + ow * 32 - ow1 * 32) + load_f32(bias + o)) + load_f32(R + b * 100352 + o + oh * 3584 + ow * 128));
                            store_f32(Y + b * 100352 + o + oh * 3584 + ow * 128, at_least_f32(set_f32(0.0f), z_2));
                        }
                    }
                }
            }
        }
    }
}
