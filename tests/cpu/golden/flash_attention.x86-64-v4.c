/* flash_attention for cpu:x86-64-v4, generated. */
#define TW_LANES 16
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "matvec.h"
#include "dot.h"
#include "transpose.h"

/* raw: few rows, dot products along the depth. */
static __attribute__((noinline)) void tw_flash_attention_raw_dot(int64_t rows, int64_t columns, const float *a, const float *b, float *c) {
    switch (rows) {
        case 1: dot_f32(1, columns, 32, a, 32, b, 32, c, 128); break;
        case 2: dot_f32(2, columns, 32, a, 32, b, 32, c, 128); break;
        case 3: dot_f32(3, columns, 32, a, 32, b, 32, c, 128); break;
    }
}

/* raw: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_raw(int64_t rows, int64_t columns, const float *a, const float *b, float *c) {
    if (columns <= 16) {
        switch (rows) {
            case 1: mma_f32(1, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 2: mma_f32(2, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 3: mma_f32(3, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 4: mma_f32(4, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 5: mma_f32(5, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 6: mma_f32(6, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 7: mma_f32(7, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 8: mma_f32(8, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 9: mma_f32(9, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 10: mma_f32(10, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 11: mma_f32(11, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 12: mma_f32(12, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 13: mma_f32(13, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 14: mma_f32(14, 1, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
        }
    }
    else {
        switch (rows) {
            case 1: mma_f32(1, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 2: mma_f32(2, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 3: mma_f32(3, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 4: mma_f32(4, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 5: mma_f32(5, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 6: mma_f32(6, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 7: mma_f32(7, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 8: mma_f32(8, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 9: mma_f32(9, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 10: mma_f32(10, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 11: mma_f32(11, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 12: mma_f32(12, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 13: mma_f32(13, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
            case 14: mma_f32(14, 2, TW_LANES, 1, 32, a, 32, 1, b, 32, c, 128); break;
        }
    }
}

/* pv: few rows x pieces of columns, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_pv_few(int64_t rows, int64_t columns, const float *a, const float *b, const float *second, float *c, int64_t depth) {
    switch (rows) {
        case 1:
        {
            few_f32(1, 2, 1, TW_LANES, 1, 0, depth, a, 128, 1, b, second, 32, c, 32);
        }
        break;
        case 2:
        {
            few_f32(2, 2, 1, TW_LANES, 1, 0, depth, a, 128, 1, b, second, 32, c, 32);
        }
        break;
        case 3:
        {
            few_f32(3, 2, 1, TW_LANES, 1, 0, depth, a, 128, 1, b, second, 32, c, 32);
        }
        break;
        case 4:
        {
            few_f32(4, 2, 1, TW_LANES, 1, 0, depth, a, 128, 1, b, second, 32, c, 32);
        }
        break;
    }
}

/* pv: rows x columns of the result, the whole depth, in registers. */
static __attribute__((noinline)) void tw_flash_attention_pv(int64_t rows, int64_t columns, const float *a, const float *b, float *c, int64_t depth) {
    switch (rows) {
        case 1: mma_f32(1, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 2: mma_f32(2, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 3: mma_f32(3, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 4: mma_f32(4, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 5: mma_f32(5, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 6: mma_f32(6, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 7: mma_f32(7, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 8: mma_f32(8, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 9: mma_f32(9, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 10: mma_f32(10, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 11: mma_f32(11, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 12: mma_f32(12, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 13: mma_f32(13, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
        case 14: mma_f32(14, 2, TW_LANES, 1, depth, a, 128, 1, b, 32, c, 32); break;
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
        const int64_t i0_step = ceil_int(S, ceil_int(S, 224));
        const int64_t i0 = floor_mod(rest, floor_div(S + 223, 224)) * i0_step;
        rest = floor_div(rest, floor_div(S + 223, 224));
        const int64_t h0 = floor_mod(rest, H);
        rest = floor_div(rest, H);
        const int64_t b0 = rest;
        const int64_t i0_end = min_int(i0 + i0_step, S);
        float *K_l2 = (float *)((char *)args->scratch + 0);
        /* K_l2[b, h, t, e] = K[b, h, t, e] */
        const int K_l2_direct = i0_end - i0 <= 3;
        if (!K_l2_direct) {
            const int64_t b = b0;
            const int64_t h = h0;
            for (int64_t t = 0; t < T; t += 32) {
                transpose_f32(min_int(32, T - t), 32, K + H * T * b * 32 + T * h * 32 + t * 32, 32, K_l2 + floor_mod(t, 32) + floor_div(t, 32) * 1024, 32);
            }
        }
        /* for i from i1 in tile(i0, min(S, i0 + (S + (S + 223) // 224 - 1) // ((S + 223) // 224)), 28, balanced): */
        const int64_t i1_step = ceil_int(i0_end - i0, ceil_int(i0_end - i0, 28));
        for (int64_t i1 = i0; i1 < i0_end; i1 += i1_step) {
            const int64_t i1_end = min_int(i1 + i1_step, i0_end);
            TW_ALIGN float mx[48];
            /* mx = -inf */
            for (int64_t i = 0; i < 48; i += TW_LANES) store_f32(mx + i, set_f32(-__builtin_inff()));
            TW_ALIGN float l[48];
            /* l = 0.0 */
            for (int64_t i = 0; i < 48; i += TW_LANES) store_f32(l + i, set_f32(0.0f));
            TW_ALIGN float o[912];
            /* o = 0.0 */
            for (int64_t i = 0; i < 912; i += TW_LANES) store_f32(o + i, set_f32(0.0f));
            /* for t from t0 in tile(0, T, 128): */
            for (int64_t t0 = 0; t0 < T; t0 += 128) {
                const int64_t t0_end = min_int(t0 + 128, T);
                TW_ALIGN float raw[3600];
                /* raw[b, h, i, t] = sum(e, Q[b, h, i, e] * K_l2[b, h, t, e])  ?i ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    if (K_l2_direct) {
                        tw_flash_attention_raw_dot(i1_end - i1, t0_end - t0, Q + H * S * b * 32 + S * h * 32 + i1 * 32, K + H * T * b * 32 + T * h * 32 + t0 * 32, raw + 0);
                    }
                    else {
                        for (int64_t t_at = t0; t_at < t0_end; t_at += 32) {
                            const int64_t t_stop = min_int(t_at + 32, t0_end);
                            for (int64_t i_at = i1; i_at < i1_end; i_at += 14) {
                                const int64_t i_stop = min_int(i_at + 14, i1_end);
                                tw_flash_attention_raw(i_stop - i_at, t_stop - t_at, Q + H * S * b * 32 + S * h * 32 + i_at * 32, K_l2 + floor_mod(t_at, 32) + floor_div(t_at, 32) * 1024, raw + -i1 * 128 + i_at * 128 - t0 + t_at);
                            }
                        }
                    }
                }
                TW_ALIGN float top[48];
                TW_ALIGN float safe[48];
                TW_ALIGN float p[3600];
                TW_ALIGN float scale[48];
                TW_ALIGN float part[48];
                TW_ALIGN float pv[912];
                /* s[b, h, i, t] = raw[b, h, i, t] * f32(0.1767766952966369) + bias[b, t]  ?t */
                /* top[b, h, i] = max(t, s[b, h, i, t])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i1; i < i1_end; i++) {
                        f32v top_lanes = set_f32(-__builtin_inff());
                        f32v top_lanes_2 = set_f32(-__builtin_inff());
                        f32v top_lanes_3 = set_f32(-__builtin_inff());
                        f32v top_lanes_4 = set_f32(-__builtin_inff());
                        {
                            int64_t t = t0;
                            for (; t + 64 <= t0_end; t += 64) {
                                const f32v s_2 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0, s_2);
                                top_lanes = max_f32(top_lanes, s_2);
                                const f32v s_3 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0 + 16) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 16));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0 + 16, s_3);
                                top_lanes_2 = max_f32(top_lanes_2, s_3);
                                const f32v s_4 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0 + 32) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 32));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0 + 32, s_4);
                                top_lanes_3 = max_f32(top_lanes_3, s_4);
                                const f32v s_5 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0 + 48) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t + 48));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0 + 48, s_5);
                                top_lanes_4 = max_f32(top_lanes_4, s_5);
                            }
                            for (; t + 16 <= t0_end; t += 16) {
                                const f32v s_6 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_f32(bias + T * b + t));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0, s_6);
                                top_lanes = max_f32(top_lanes, s_6);
                            }
                            if (t < t0_end) {
                                const int64_t live_t = t0_end - t;
                                const f32v s_7 = ((load_f32(raw + i * 128 - i1 * 128 + t - t0) * set_f32(0x1.6a09e6p-3f)) + load_part_f32(bias + T * b + t, live_t));
                                store_f32(raw + i * 128 - i1 * 128 + t - t0, s_7);
                                top_lanes = max_f32(top_lanes, select_f32(live(live_t), s_7, set_f32(-__builtin_inff())));
                            }
                        }
                        top[i - i1] = max_across_f32(max_f32(max_f32(top_lanes, top_lanes_2), max_f32(top_lanes_3, top_lanes_4)));
                    }
                }
                /* mx2[b, h, i] = max(mx[b, h, i], top[b, h, i]) */
                /* safe[b, h, i] = select(mx2[b, h, i] == f32(-inf), f32(0.0), mx2[b, h, i]) */
                /* scale[b, h, i] = exp(mx[b, h, i] - safe[b, h, i]) */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    {
                        int64_t i = i1;
                        for (; i + 16 <= i1_end; i += 16) {
                            const f32v mx2_2 = max_f32(load_f32(mx + i - i1), load_f32(top + i - i1));
                            store_f32(top + i - i1, mx2_2);
                            const f32v safe_2 = select_f32((mx2_2 == set_f32(-__builtin_inff())), set_f32(0.0f), mx2_2);
                            store_f32(safe + i - i1, safe_2);
                            const f32v scale_2 = exp_f32((load_f32(mx + i - i1) - safe_2));
                            store_f32(scale + i - i1, scale_2);
                        }
                        if (i < i1_end) {
                            const int64_t live_i = i1_end - i;
                            const f32v mx2_3 = max_f32(load_f32(mx + i - i1), load_f32(top + i - i1));
                            store_f32(top + i - i1, mx2_3);
                            const f32v safe_3 = select_f32((mx2_3 == set_f32(-__builtin_inff())), set_f32(0.0f), mx2_3);
                            store_f32(safe + i - i1, safe_3);
                            const f32v scale_3 = exp_f32((load_f32(mx + i - i1) - safe_3));
                            store_f32(scale + i - i1, scale_3);
                        }
                    }
                }
                /* p[b, h, i, t] = exp(s[b, h, i, t] - safe[b, h, i]) */
                /* part[b, h, i] = sum(t, p[b, h, i, t])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i1; i < i1_end; i++) {
                        f32v part_lanes = set_f32(0.0f);
                        {
                            int64_t t = t0;
                            for (; t + 16 <= t0_end; t += 16) {
                                const f32v p_2 = exp_f32((load_f32(raw + i * 128 - i1 * 128 + t - t0) - set_f32(safe[i - i1])));
                                store_f32(p + i * 128 - i1 * 128 + t - t0, p_2);
                                part_lanes = (part_lanes + p_2);
                            }
                            if (t < t0_end) {
                                const int64_t live_t_2 = t0_end - t;
                                const f32v p_3 = exp_f32((load_f32(raw + i * 128 - i1 * 128 + t - t0) - set_f32(safe[i - i1])));
                                store_f32(p + i * 128 - i1 * 128 + t - t0, p_3);
                                part_lanes = (part_lanes + select_f32(live(live_t_2), p_3, set_f32(0.0f)));
                            }
                        }
                        part[i - i1] = sum_across_f32(part_lanes);
                    }
                }
                /* l2[b, h, i] = l[b, h, i] * scale[b, h, i] + part[b, h, i] */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    {
                        int64_t i = i1;
                        for (; i + 16 <= i1_end; i += 16) {
                            const f32v l2_2 = ((load_f32(l + i - i1) * load_f32(scale + i - i1)) + load_f32(part + i - i1));
                            store_f32(part + i - i1, l2_2);
                        }
                        if (i < i1_end) {
                            const int64_t live_i_2 = i1_end - i;
                            const f32v l2_3 = ((load_f32(l + i - i1) * load_f32(scale + i - i1)) + load_f32(part + i - i1));
                            store_f32(part + i - i1, l2_3);
                        }
                    }
                }
                /* pv[b, h, i, d] = sum(t, p[b, h, i, t] * V[b, h, t, d])  ?t */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    if (S <= 4) {
                        for (int64_t i_at_2 = i1; i_at_2 < i1_end; i_at_2 += 14) {
                            const int64_t i_stop_2 = min_int(i_at_2 + 14, i1_end);
                            tw_flash_attention_pv_few(i_stop_2 - i_at_2, 32, p + -i1 * 128 + i_at_2 * 128, V + H * T * b * 32 + T * h * 32 + t0 * 32, V + H * T * b * 32 + T * h * 32 + t0 * 32 + 32, pv + -i1 * 32 + i_at_2 * 32, t0_end - t0);
                        }
                    }
                    else {
                        for (int64_t i_at_3 = i1; i_at_3 < i1_end; i_at_3 += 14) {
                            const int64_t i_stop_3 = min_int(i_at_3 + 14, i1_end);
                            tw_flash_attention_pv(i_stop_3 - i_at_3, 32, p + -i1 * 128 + i_at_3 * 128, V + H * T * b * 32 + T * h * 32 + t0 * 32, pv + -i1 * 32 + i_at_3 * 32, t0_end - t0);
                        }
                    }
                }
                /* o2[b, h, i, d] = o[b, h, i, d] * scale[b, h, i] + pv[b, h, i, d] */
                {
                    const int64_t b = b0;
                    const int64_t h = h0;
                    for (int64_t i = i1; i < i1_end; i++) {
                        {
                            int64_t d = 0;
                            for (; d < 32; d += 16) {
                                const f32v o2_2 = ((load_f32(o + d + i * 32 - i1 * 32) * set_f32(scale[i - i1])) + load_f32(pv + d + i * 32 - i1 * 32));
                                store_f32(pv + d + i * 32 - i1 * 32, o2_2);
                            }
                        }
                    }
                }
                /* rotate(mx=mx2, l=l2, o=o2) */
                for (int64_t i = 0; i < 48; i += TW_LANES) store_f32(mx + i, load_f32(top + i));
                for (int64_t i = 0; i < 48; i += TW_LANES) store_f32(l + i, load_f32(part + i));
                for (int64_t i = 0; i < 912; i += TW_LANES) store_f32(o + i, load_f32(pv + i));
            }
            /* O[b, h, i, d] = o[b, h, i, d] / l[b, h, i]  ?i */
            {
                const int64_t b = b0;
                const int64_t h = h0;
                for (int64_t i = i1; i < i1_end; i++) {
                    {
                        int64_t d = 0;
                        for (; d < 32; d += 16) {
                            store_f32(O + H * S * b * 32 + S * h * 32 + d + i * 32, (load_f32(o + d + i * 32 - i1 * 32) / set_f32(l[i - i1])));
                        }
                    }
                }
            }
        }
    }
}
