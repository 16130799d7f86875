/* Products whose operands both lie along the depth: scores of few queries, without a transposed copy of the keys. */
#ifndef TW_DOT_H
#define TW_DOT_H
#include "vec.h"

#define TW_DOT_ROWS 3
#define TW_DOT_COLUMNS 4

/* c[i][j] = sum over k of a[i][k] * b[j][k], for i < rows and j < columns (literals): a vector of sums for each, added
 * across the lanes at the end. Both operands are contiguous along k. */
TW_INLINE void dot_tile_f32(const int rows, const int columns, const int64_t depth, const float *TW_RESTRICT a,
                            const int64_t a_row, const float *TW_RESTRICT b, const int64_t b_row,
                            float *TW_RESTRICT c, const int64_t c_row) {
    f32v sum[TW_DOT_ROWS][TW_DOT_COLUMNS];
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, columns) sum[i][j] = set_f32(0.0f);
    int64_t k = 0;
    for (; k + TW_LANES <= depth; k += TW_LANES) {
        f32v x[TW_DOT_ROWS];
        TW_UNROLL TW_FOR(i, rows) x[i] = load_f32(a + i * a_row + k);
        TW_UNROLL TW_FOR(j, columns) {
            const f32v y = load_f32(b + j * b_row + k);
            TW_UNROLL TW_FOR(i, rows) sum[i][j] += x[i] * y;
        }
    }
    if (k < depth) {
        f32v x[TW_DOT_ROWS];
        TW_UNROLL TW_FOR(i, rows) x[i] = load_part_f32(a + i * a_row + k, depth - k);
        TW_UNROLL TW_FOR(j, columns) {
            const f32v y = load_part_f32(b + j * b_row + k, depth - k);
            TW_UNROLL TW_FOR(i, rows) sum[i][j] += x[i] * y;
        }
    }
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, columns) c[i * c_row + j] = sum_across_f32(sum[i][j]);
}

/* The same for any number of columns. */
TW_INLINE void dot_f32(const int rows, const int64_t columns, const int64_t depth, const float *TW_RESTRICT a,
                       const int64_t a_row, const float *TW_RESTRICT b, const int64_t b_row, float *TW_RESTRICT c,
                       const int64_t c_row) {
    int64_t j = 0;
    for (; j + TW_DOT_COLUMNS <= columns; j += TW_DOT_COLUMNS)
        dot_tile_f32(rows, TW_DOT_COLUMNS, depth, a, a_row, b + j * b_row, b_row, c + j, c_row);
    for (; j < columns; j++) dot_tile_f32(rows, 1, depth, a, a_row, b + j * b_row, b_row, c + j, c_row);
}

#endif
