/* matmul for cpu:x86-64-v3, generated. */
#define TW_LANES 8
#include "vec.h"
#include "vec_math.h"
#include "vec_half.h"
#include "mma.h"
#include "dot8.h"

/* acc: rows x columns of the result in registers. */
TW_INLINE void tw_matmul_acc_tile(const int rows, const int vectors, int64_t columns,
    const int16_t *a, const void *b, const int32_t *start, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    const int first = 1, last = 1;
    const int64_t depth = 256;
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    start_sums_i32(rows, vectors, first, start, c, 64, sum);
    add_packed_i8(rows, vectors, 6, depth, a, b, sum);
    const int32_t *const shift_here = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    uint8_t *const C = (uint8_t *)args->buffer[4];
    TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows) {
        const int64_t m = m_at + i, n = n_at + j * TW_LANES;
        const f32v y_2 = (to(f32, (sum[i][j] + load_i32(shift_here + n))) * load_f32(scale + n));
        store_u8(C + m * 256 + n, to(u8, to(i32, at_most_f32(set_f32(255.0f), at_least_f32(set_f32(0.0f), (round_f32((y_2 * set_f32(0x1.666666p-1f))) + set_f32(128.0f)))))));
    }
}
static __attribute__((noinline)) void tw_matmul_acc(int64_t rows, int64_t columns,
    const int16_t *a, const void *b, const int32_t *start, int32_t *c, const tw_args *args, int64_t m_at, int64_t n_at) {
    switch (rows) {
        case 1: tw_matmul_acc_tile(1, 4, columns, a, b, start, c, args, m_at, n_at); break;
        case 2: tw_matmul_acc_tile(2, 4, columns, a, b, start, c, args, m_at, n_at); break;
        case 3: tw_matmul_acc_tile(3, 4, columns, a, b, start, c, args, m_at, n_at); break;
    }
}

/* acc: rows x columns of the result in registers. */
TW_INLINE void tw_matmul_acc_2_tile(const int rows, const int vectors, int64_t columns,
    const int16_t *a, const void *b, const int32_t *start, int32_t *c, int first, int last, int64_t depth, const tw_args *args, int64_t m_at, int64_t n_at) {
    i32v sum[TW_MOST_ROWS][TW_PANEL_VECTORS];
    start_sums_i32(rows, vectors, first, start, c, 64, sum);
    add_widened(rows, vectors, 6, 2, depth, a, b, sum);
    if (!last) {
        keep_sums_i32(rows, vectors, sum, c, 64);
        return;
    }
    const int32_t *const shift_here = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    uint8_t *const C = (uint8_t *)args->buffer[4];
    TW_UNROLL TW_FOR(j, vectors) TW_UNROLL TW_FOR(i, rows) {
        const int64_t m = m_at + i, n = n_at + j * TW_LANES;
        const f32v y_2 = (to(f32, (sum[i][j] + load_i32(shift_here + n))) * load_f32(scale + n));
        store_u8(C + m * 256 + n, to(u8, to(i32, at_most_f32(set_f32(255.0f), at_least_f32(set_f32(0.0f), (round_f32((y_2 * set_f32(0x1.666666p-1f))) + set_f32(128.0f)))))));
    }
}
static __attribute__((noinline)) void tw_matmul_acc_2(int64_t rows, int64_t columns,
    const int16_t *a, const void *b, const int32_t *start, int32_t *c, int first, int last, int64_t depth, const tw_args *args, int64_t m_at, int64_t n_at) {
    switch (rows) {
        case 1: tw_matmul_acc_2_tile(1, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 2: tw_matmul_acc_2_tile(2, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 3: tw_matmul_acc_2_tile(3, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 4: tw_matmul_acc_2_tile(4, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 5: tw_matmul_acc_2_tile(5, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
        case 6: tw_matmul_acc_2_tile(6, 2, columns, a, b, start, c, first, last, depth, args, m_at, n_at); break;
    }
}

void tw_matmul(const tw_args *args, int64_t begin, int64_t end) {
    const uint8_t *const X = (const uint8_t *)args->buffer[0];
    const int8_t *const W = (const int8_t *)args->buffer[1];
    const int32_t *const shift = (const int32_t *)args->buffer[2];
    const float *const scale = (const float *)args->buffer[3];
    uint8_t *const C = (uint8_t *)args->buffer[4];
    const int64_t M = args->dim[0];
    for (int64_t block = begin; block < end; block++) {
        int64_t rest = block;
        const int64_t n0 = floor_mod(rest, 4) * 64;
        rest = floor_div(rest, 4);
        const int64_t m0_step = ceil_int(ceil_int(M, ceil_int(M, 54)), 6) * 6;
        const int64_t m0 = rest * m0_step;
        const int64_t m0_end = min_int(m0 + m0_step, M);
        TW_ALIGN int32_t acc[3464];
        /* acc[m, n] = sum(k, i32(X[m, k]) * i32(W[n // 32, k // 4, n % 32, k % 4]))  ?m */
        {
            const int64_t count = m0_end - m0;
            const int64_t pieces = ceil_int(count, 6);
            int16_t *staged = (int16_t *)((char *)args->scratch + 0);
            for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                stop = row + count / pieces + (piece < count % pieces);
                for (int64_t m = row; m < stop; m++) {
                    stage_pairs_u8(1024, X + m * 1024, staged + piece * 6144 + (m - row) * 16, 96);
                }
            }
            if (count <= 3) {
                for (int64_t strip = n0; strip < n0 + 64; strip += 32) {
                    const int8_t *const packed = (const int8_t *)W + floor_mod(strip, 32) * 4 + floor_div(strip, 32) * 32768;
                    for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                        stop = row + count / pieces + (piece < count % pieces);
                        tw_matmul_acc(stop - row, n0 + 64 - strip, staged + piece * 6144, packed, 0, 0, args, row, strip);
                    }
                }
            }
            else {
                TW_ALIGN int32_t widened[4096];
                for (int64_t chunk = 0; chunk < 64; chunk += 32) {
                    const int64_t deep = min_int(32, 64 - chunk);
                    for (int64_t strip = n0; strip < n0 + 64; strip += 16) {
                        const int8_t *const packed = (const int8_t *)W + floor_mod(strip, 32) * 4 + floor_div(strip, 32) * 32768;
                        widen_strip_i8(2, min_int(deep * 4, 256 - chunk * 4), packed + chunk * 512, widened);
                        for (int64_t piece = 0, row = m0, stop; piece < pieces; piece++, row = stop) {
                            stop = row + count / pieces + (piece < count % pieces);
                            tw_matmul_acc_2(stop - row, n0 + 64 - strip, staged + piece * 6144 + chunk * 96, widened, 0, acc + -m0 * 64 - n0 + row * 64 + strip, chunk == 0, chunk + 32 >= 64, deep, args, row, strip);
                        }
                    }
                }
            }
        }
    }
}
