/* The register tile of few rows: memory-bound, so all columns of a piece at once and one pass over b. */
#ifndef TW_MATVEC_H
#define TW_MATVEC_H
#include "vec.h"

/* The largest tile of few rows: rows, vectors of a piece, pieces side by side. */
#define TW_FEW_ROWS 4
#define TW_FEW_VECTORS 8
#define TW_FEW_PIECES 2

/* c[i][p * vectors + j] (+)= sum over k of a[i * a_row + k * a_deep] * b_p[k * b_deep + j], for i < rows and pieces
 * p < pieces, whose operands start at b and at second.
 *
 * rows, vectors, pieces and fresh are literals. Two pieces are two streams from memory, which one core reads a quarter
 * faster than one; prefetching what is needed next is slower than none where memory is the limit. With `ahead` the same
 * place of the panel that follows b is fetched (beyond the last one, nothing is read). Each sum runs in the order of k,
 * as in mma_f32, so that the number of rows changes no bit. Of the last vector only `live` lanes are read. */
TW_INLINE void few_f32(const int rows, const int vectors, const int pieces, const int64_t live, const int fresh,
                       const int ahead, const int64_t depth, const float *TW_RESTRICT a, const int64_t a_row,
                       const int64_t a_deep, const float *TW_RESTRICT b, const float *TW_RESTRICT second,
                       const int64_t b_deep, float *TW_RESTRICT c, const int64_t c_row) {
    f32v sum[TW_FEW_ROWS][TW_FEW_PIECES][TW_FEW_VECTORS];
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(p, pieces) TW_UNROLL TW_FOR(j, vectors)
        sum[i][p][j] = fresh ? set_f32(0.0f) : load_f32(c + i * c_row + (p * vectors + j) * TW_LANES);
    for (int64_t k = 0; k < depth; k++) {
        if (ahead) TW_UNROLL for (int line = 0; line < vectors * TW_LANES; line += 16)
            __builtin_prefetch(b + (depth + k) * b_deep + line, 0, 2);
        TW_UNROLL TW_FOR(p, pieces) TW_UNROLL TW_FOR(j, vectors) {
            const float *at = (p ? second : b) + k * b_deep + j * TW_LANES;
            const f32v y = p == pieces - 1 && j == vectors - 1 ? load_part_f32(at, live) : load_f32(at);
            TW_UNROLL TW_FOR(i, rows) sum[i][p][j] += set_f32(a[i * a_row + k * a_deep]) * y;
        }
    }
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(p, pieces) TW_UNROLL TW_FOR(j, vectors)
        store_f32(c + i * c_row + (p * vectors + j) * TW_LANES, sum[i][p][j]);
}

#endif
