/* row_softmax for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"

void tw_row_softmax(const tw_args *args, int64_t begin, int64_t end) {
    const float *const X = (const float *)args->buffer[0];
    float *const Y = (float *)args->buffer[1];
    const int64_t M = args->dim[0];
    const int64_t N = args->dim[1];
    for (int64_t block = begin; block < end; block++) {
        const int64_t m0 = block * 16;
        const int64_t m0_end = min_int(m0 + 16, M);
        /* for m from m1 in tile(m0, min(M, m0 + 16), 2): */
        for (int64_t m1 = m0; m1 < m0_end; m1 += 2) {
            const int64_t m1_end = min_int(m1 + 2, m0_end);
            TW_ALIGN float top[16];
            float *e = (float *)((char *)args->scratch + 0);
            TW_ALIGN float total[16];
            /* top[m] = max(n, X[m, n])  ?m */
            {
                for (int64_t m = m1; m < m1_end; m++) {
                    f32v top_lanes = set_f32(-__builtin_inff());
                    f32v top_lanes_2 = set_f32(-__builtin_inff());
                    f32v top_lanes_3 = set_f32(-__builtin_inff());
                    f32v top_lanes_4 = set_f32(-__builtin_inff());
                    {
                        int64_t n = 0;
                        for (; n + 32 <= N; n += 32) {
                            top_lanes = max_f32(top_lanes, load_f32(X + N * m + n));
                            top_lanes_2 = max_f32(top_lanes_2, load_f32(X + N * m + n + 8));
                            top_lanes_3 = max_f32(top_lanes_3, load_f32(X + N * m + n + 16));
                            top_lanes_4 = max_f32(top_lanes_4, load_f32(X + N * m + n + 24));
                        }
                        for (; n + 8 <= N; n += 8) {
                            top_lanes = max_f32(top_lanes, load_f32(X + N * m + n));
                        }
                        if (n < N) {
                            const int64_t live_n = N - n;
                            top_lanes = max_f32(top_lanes, select_f32(live(live_n), load_part_f32(X + N * m + n, live_n), set_f32(-__builtin_inff())));
                        }
                    }
                    top[m - m1] = max_across_f32(max_f32(max_f32(top_lanes, top_lanes_2), max_f32(top_lanes_3, top_lanes_4)));
                }
            }
            /* e[m, n] = exp(X[m, n] - top[m])  ?m */
            /* total[m] = sum(n, e[m, n]) */
            {
                for (int64_t m = m1; m < m1_end; m++) {
                    f32v total_lanes = set_f32(0.0f);
                    {
                        int64_t n = 0;
                        for (; n + 8 <= N; n += 8) {
                            const f32v e_2 = exp_f32((load_f32(X + N * m + n) - set_f32(top[m - m1])));
                            store_f32(e + m * floor_div(N + 7, 8) * 8 - m1 * floor_div(N + 7, 8) * 8 + n, e_2);
                            total_lanes = (total_lanes + e_2);
                        }
                        if (n < N) {
                            const int64_t live_n_2 = N - n;
                            const f32v e_3 = exp_f32((load_part_f32(X + N * m + n, live_n_2) - set_f32(top[m - m1])));
                            store_f32(e + m * floor_div(N + 7, 8) * 8 - m1 * floor_div(N + 7, 8) * 8 + n, e_3);
                            total_lanes = (total_lanes + select_f32(live(live_n_2), e_3, set_f32(0.0f)));
                        }
                    }
                    total[m - m1] = sum_across_f32(total_lanes);
                }
            }
            /* Y[m, n] = e[m, n] / total[m]  ?m */
            {
                for (int64_t m = m1; m < m1_end; m++) {
                    {
                        int64_t n = 0;
                        for (; n + 8 <= N; n += 8) {
                            store_f32(Y + N * m + n, (load_f32(e + m * floor_div(N + 7, 8) * 8 - m1 * floor_div(N + 7, 8) * 8 + n) / set_f32(total[m - m1])));
                        }
                        if (n < N) {
                            const int64_t live_n_3 = N - n;
                            store_part_f32(Y + N * m + n, (load_f32(e + m * floor_div(N + 7, 8) * 8 - m1 * floor_div(N + 7, 8) * 8 + n) / set_f32(total[m - m1])), live_n_3);
                        }
                    }
                }
            }
        }
    }
}
