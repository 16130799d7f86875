/* Transposed copies in f32, by blocks of TW_LANES x TW_LANES in registers. */
#ifndef TW_TRANSPOSE_H
#define TW_TRANSPOSE_H
#include "vec.h"

/* Elements of both vectors in turn: of their first halves, of their second halves. */
#if TW_LANES == 4
#define TW_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define TW_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#elif TW_LANES == 8
#define TW_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define TW_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define TW_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define TW_ZIP_HIGH(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#endif

/* to[j * to_row + i] = from[i * from_row + j] for i, j < TW_LANES: log2(TW_LANES) perfect shuffles of the rows. */
TW_INLINE void transpose_block_f32(const float *TW_RESTRICT from, int64_t from_row, float *TW_RESTRICT to, int64_t to_row) {
    f32v x[TW_LANES], y[TW_LANES];
    TW_UNROLL TW_FOR(i, TW_LANES) x[i] = load_f32(from + i * from_row);
    TW_UNROLL for (int round = 1; round < TW_LANES; round *= 2) {
        TW_UNROLL TW_FOR(i, TW_LANES / 2) {
            y[2 * i] = TW_ZIP_LOW(x[i], x[i + TW_LANES / 2]);
            y[2 * i + 1] = TW_ZIP_HIGH(x[i], x[i + TW_LANES / 2]);
        }
        TW_UNROLL TW_FOR(i, TW_LANES) x[i] = y[i];
    }
    TW_UNROLL TW_FOR(i, TW_LANES) store_f32(to + i * to_row, x[i]);
}

/* to[j * to_row + i] = from[i * from_row + j] for i < rows, j < columns. */
TW_INLINE void transpose_f32(int64_t rows, int64_t columns, const float *TW_RESTRICT from, int64_t from_row,
                             float *TW_RESTRICT to, int64_t to_row) {
    const int64_t whole = columns / TW_LANES * TW_LANES;
    int64_t i = 0;
    for (; i + TW_LANES <= rows; i += TW_LANES) {
        for (int64_t j = 0; j < whole; j += TW_LANES)
            transpose_block_f32(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
        for (int64_t j = whole; j < columns; j++)
            TW_FOR(l, TW_LANES) to[j * to_row + i + l] = from[(i + l) * from_row + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * to_row + i] = from[i * from_row + j];
}

#endif
