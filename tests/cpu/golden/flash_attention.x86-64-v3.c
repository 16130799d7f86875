/* flash_attention for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "matvec.h"

/* raw: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_raw(int64_t rows, int64_t columns, const float *a, const float *b, float *c, int64_t b_deep) {
    if (columns <= 8) {
        switch (rows) {
            case 1: mma_f32(1, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 2: mma_f32(2, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 3: mma_f32(3, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 4: mma_f32(4, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 5: mma_f32(5, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 6: mma_f32(6, 1, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
        }
    }
    else {
        switch (rows) {
            case 1: mma_f32(1, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 2: mma_f32(2, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 3: mma_f32(3, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 4: mma_f32(4, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 5: mma_f32(5, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
            case 6: mma_f32(6, 2, TW_LANES, 1, 32, a, 32, 1, b, b_deep, c, 256); break;
        }
    }
}

/* pv: few rows x pieces of columns, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_pv_few(int64_t rows, int64_t columns, const float *a, const float *b, const float *second, float *c, int64_t depth) {
    switch (rows) {
        case 1:
        {
            few_f32(1, 4, 1, TW_LANES, 1, depth, a, 256, 1, b, second, 32, c, 32);
        }
        break;
        case 2:
        {
            few_f32(2, 4, 1, TW_LANES, 1, depth, a, 256, 1, b, second, 32, c, 32);
        }
        break;
        case 3:
        {
            few_f32(3, 4, 1, TW_LANES, 1, depth, a, 256, 1, b, second, 32, c, 32);
        }
        break;
    }
}

/* pv: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_pv(int64_t rows, int64_t columns, const float *a, const float *b, float *c, int64_t depth) {
    switch (rows) {
        case 1: mma_f32(1, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
        case 2: mma_f32(2, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
        case 3: mma_f32(3, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
        case 4: mma_f32(4, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
        case 5: mma_f32(5, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
        case 6: mma_f32(6, 2, TW_LANES, 1, depth, a, 256, 1, b, 32, c, 32); break;
    }
}

void tw_flash_attention(const tw_args *args, int64_t begin, int64_t end) {
    const float *const Q = (const float *)args->buffer[0];
    const float *const K = (const float *)args->buffer[1];
    const float *const V = (const float *)args->buffer[2];
    const float *const bias = (const float *)args->buffer[3];
    float *const O = (float *)args->buffer[4];
    const int64_t B = args->dim[0];
    const int64_t H = args->dim[1];
    const int64_t S = args->dim[2];
    const int64_t T = args->dim[3];
    for (int64_t block = begin; block < end; block++) {
        int64_t rest = block;
        const int64_t h0 = floor_mod(rest, H);
        rest = floor_div(rest, H);
        const int64_t b0 = rest;
        float *K_l2 = (float *)((char *)args->scratch + 0);
        /* K_l2[b, h, t, e] = K[b, h, t, e] */
        {
            const int64_t b = b0;
            const int64_t h = h0;
            for (int64_t t = 0; t < T; t++) {
                {
                    int64_t e = 0;
                    for (; e < 32; e += 8) {
                        const f32v K_l2_2 = load_f32(K + H * T * b * 32 + T * h * 32 + e + t * 32);
                        store_strided_f32(K_l2 + e * floor_div(T + 31, 32) * 32 + t, floor_div(T + 31, 32) * 32, K_l2_2, TW_LANES);
                    }
                }
            }
        }
        /* for i from i0 in tile(0, S, 6, balanced): */
        const int64_t i0_step = ceil_int(S, ceil_int(S, 6));
        for (int64_t i0 = 0; i0 < S; i0 += i0_step) {
            const int64_t i0_end = min_int(i0 + i0_step, S);
            TW_ALIGN float mx[16];
            /* mx = -inf */
            for (int64_t i = 0; i < 16; i += TW_LANES) store_f32(mx + i, set_f32(-__builtin_inff()));
            TW_ALIGN float l[16];
            /* l = 0.0 */
            for (int64_t i = 0; i < 16; i += TW_LANES) store_f32(l + i, set_f32(0.0f));
            TW_ALIGN float o[200];
            /* o = 0.0 */
            for (int64_t i = 0; i < 200; i += TW_LANES) store_f32(o + i, set_f32(0.0f));
            /* for t from t0 in tile(0, T, 256): */
            for (int64_t t0 = 0; t0 < T; t0 += 256) {
                const int64_t t0_end = min_int(t0 + 256, T);
                TW_ALIGN float raw[1544];
                /* raw[b, h, i, t] = sum(e, Q[b, h, i, e] * K_l2[b, h, t, e])  ?i ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t t_at = t0; t_at < t0_end; t_at += 16) {
                        const int64_t t_stop = min_int(t_at + 16, t0_end);
                        tw_flash_attention_raw(i0_end - i0, t_stop - t_at, Q + H * S * b * 32 + S * h * 32 + i0 * 32, K_l2 + t_at, raw + -t0 + t_at, floor_div(T + 31, 32) * 32);
                    }
                }
                TW_ALIGN float top[16];
                TW_ALIGN float safe[16];
                TW_ALIGN float p[1544];
                TW_ALIGN float scale[16];
                TW_ALIGN float part[16];
                TW_ALIGN float pv[200];
                /* s[b, h, i, t] = raw[b, h, i, t] * f32(0.1767766952966369) + bias[b, t]  ?t */
                /* top[b, h, i] = max(t, s[b, h, i, t])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i0; i < i0_end; i++) {
                        f32v top_lanes = set_f32(-__builtin_inff());
                        f32v top_lanes_2 = set_f32(-__builtin_inff());
                        f32v top_lanes_3 = set_f32(-__builtin_inff());
                        f32v top_lanes_4 = set_f32(-__builtin_inff());
                        {
                            int64_t t = t0;
                            for (; t + 32 <= t0_end; t += 32) {
                                const f32v s_2 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0, s_2);
                                top_lanes = max_f32(top_lanes, s_2);
                                const f32v s_3 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0 + 8) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 8));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0 + 8, s_3);
                                top_lanes_2 = max_f32(top_lanes_2, s_3);
                                const f32v s_4 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0 + 16) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 16));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0 + 16, s_4);
                                top_lanes_3 = max_f32(top_lanes_3, s_4);
                                const f32v s_5 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0 + 24) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 24));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0 + 24, s_5);
                                top_lanes_4 = max_f32(top_lanes_4, s_5);
                            }
                            for (; t + 8 <= t0_end; t += 8) {
                                const f32v s_6 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0, s_6);
                                top_lanes = max_f32(top_lanes, s_6);
                            }
                            if (t < t0_end) {
                                const int64_t live_t = t0_end - t;
                                const f32v s_7 = ((load_f32(raw + i * 256 - i0 * 256 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_part_f32(bias + T * b + t, live_t));
                                store_f32(raw + i * 256 - i0 * 256 + t - t0, s_7);
                                top_lanes = max_f32(top_lanes, select_f32(live(live_t), s_7, set_f32(-__builtin_inff())));
                            }
                        }
                        top[i - i0] = max_across_f32(max_f32(max_f32(top_lanes, top_lanes_2), max_f32(top_lanes_3, top_lanes_4)));
                    }
                }
                /* mx2[b, h, i] = max(mx[b, h, i], top[b, h, i]) */
                /* safe[b, h, i] = select(mx2[b, h, i] == f32(-inf), f32(0.0), mx2[b, h, i]) */
                /* scale[b, h, i] = exp(mx[b, h, i] - safe[b, h, i]) */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    {
                        int64_t i = i0;
                        for (; i + 8 <= i0_end; i += 8) {
                            const f32v mx2_2 = max_f32(load_f32(mx + i - i0), load_f32(top + i - i0));
                            store_f32(top + i - i0, mx2_2);
                            const f32v safe_2 = select_f32((mx2_2 == set_f32(-__builtin_inff())), set_f32(0.0f), mx2_2);
                            store_f32(safe + i - i0, safe_2);
                            const f32v scale_2 = exp_f32((load_f32(mx + i - i0) - safe_2));
                            store_f32(scale + i - i0, scale_2);
                        }
                        if (i < i0_end) {
                            const int64_t live_i = i0_end - i;
                            const f32v mx2_3 = max_f32(load_f32(mx + i - i0), load_f32(top + i - i0));
                            store_f32(top + i - i0, mx2_3);
                            const f32v safe_3 = select_f32((mx2_3 == set_f32(-__builtin_inff())), set_f32(0.0f), mx2_3);
                            store_f32(safe + i - i0, safe_3);
                            const f32v scale_3 = exp_f32((load_f32(mx + i - i0) - safe_3));
                            store_f32(scale + i - i0, scale_3);
                        }
                    }
                }
                /* p[b, h, i, t] = exp(s[b, h, i, t] - safe[b, h, i]) */
                /* part[b, h, i] = sum(t, p[b, h, i, t])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i0; i < i0_end; i++) {
                        f32v part_lanes = set_f32(0.0f);
                        {
                            int64_t t = t0;
                            for (; t + 8 <= t0_end; t += 8) {
                                const f32v p_2 = exp_f32((load_f32(raw + i * 256 - i0 * 256 + t - t0) - set_f32(safe[i - i0])));
                                store_f32(p + i * 256 - i0 * 256 + t - t0, p_2);
                                part_lanes = (part_lanes + p_2);
                            }
                            if (t < t0_end) {
                                const int64_t live_t_2 = t0_end - t;
                                const f32v p_3 = exp_f32((load_f32(raw + i * 256 - i0 * 256 + t - t0) - set_f32(safe[i - i0])));
                                store_f32(p + i * 256 - i0 * 256 + t - t0, p_3);
                                part_lanes = (part_lanes + select_f32(live(live_t_2), p_3, set_f32(0.0f)));
                            }
                        }
                        part[i - i0] = sum_across_f32(part_lanes);
                    }
                }
                /* l2[b, h, i] = l[b, h, i] * scale[b, h, i] + part[b, h, i] */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    {
                        int64_t i = i0;
                        for (; i + 8 <= i0_end; i += 8) {
                            const f32v l2_2 = ((load_f32(l + i - i0) * load_f32(scale + i - i0)) + load_f32(part + i - i0));
                            store_f32(part + i - i0, l2_2);
                        }
                        if (i < i0_end) {
                            const int64_t live_i_2 = i0_end - i;
                            const f32v l2_3 = ((load_f32(l + i - i0) * load_f32(scale + i - i0)) + load_f32(part + i - i0));
                            store_f32(part + i - i0, l2_3);
                        }
                    }
                }
                /* pv[b, h, i, d] = sum(t, p[b, h, i, t] * V[b, h, t, d])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    if (i0_end - i0 <= 3) {
                        tw_flash_attention_pv_few(i0_end - i0, 32, p + 0, V + H * T * b * 32 + T * h * 32 + t0 * 32, V + H * T * b * 32 + T * h * 32 + t0 * 32 + 32, pv + 0, t0_end - t0);
                    }
                    else {
                        for (int64_t d_at = 0; d_at < 32; d_at += 16) {
                            const int64_t d_stop = d_at + 16;
                            tw_flash_attention_pv(i0_end - i0, 16, p + 0, V + H * T * b * 32 + T * h * 32 + d_at + t0 * 32, pv + d_at, t0_end - t0);
                        }
                    }
                }
                /* o2[b, h, i, d] = o[b, h, i, d] * scale[b, h, i] + pv[b, h, i, d] */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i0; i < i0_end; i++) {
                        {
                            int64_t d = 0;
                            for (; d < 32; d += 8) {
                                const f32v o2_2 = ((load_f32(o + d + i * 32 - i0 * 32) * set_f32(scale[i - i0])) + load_f32(pv + d + i * 32 - i0 * 32));
                                store_f32(pv + d + i * 32 - i0 * 32, o2_2);
                            }
                        }
                    }
                }
                /* rotate(mx=mx2, l=l2, o=o2) */
                for (int64_t i = 0; i < 16; i += TW_LANES) store_f32(mx + i, load_f32(top + i));
                for (int64_t i = 0; i < 16; i += TW_LANES) store_f32(l + i, load_f32(part + i));
                for (int64_t i = 0; i < 200; i += TW_LANES) store_f32(o + i, load_f32(pv + i));
            }
            /* O[b, h, i, d] = o[b, h, i, d] / l[b, h, i]  ?i */
            {
                const int64_t b = b0;
                const int64_t h = h0;
                for (int64_t i = i0; i < i0_end; i++) {
                    {
                        int64_t d = 0;
                        for (; d < 32; d += 8) {
                            store_f32(O + H * S * b * 32 + S * h * 32 + d + i * 32, (load_f32(o + d + i * 32 - i0 * 32) / set_f32(l[i - i0])));
                        }
                    }
                }
            }
        }
    }
}
