/* The register tile: rows x vectors of f32 sums of products, the whole depth in registers. */
#ifndef TW_MMA_H
#define TW_MMA_H
#include "vec.h"

/* The largest register tile of any target. Arrays of constant size dissolve into registers; of variable size they do
 * not, even where the size is a literal after inlining. */
#define TW_MOST_ROWS 14
#define TW_MOST_VECTORS 4

/* c[i][j] (+)= sum over k of a[i * a_row + k * a_deep] * b[k * b_deep + j], for i < rows, j < vectors * TW_LANES.
 *
 * rows, vectors and fresh are literals: the loops over them disappear and the sums live in registers. The sum starts
 * at 0 when fresh, else at c. Of the last vector of b only the first `live` lanes are read. */
TW_INLINE void mma_f32(const int rows, const int vectors, const int64_t live, const int fresh, const int64_t depth,
                       const float *TW_RESTRICT a, const int64_t a_row, const int64_t a_deep,
                       const float *TW_RESTRICT b, const int64_t b_deep, float *TW_RESTRICT c, const int64_t c_row) {
    f32v sum[TW_MOST_ROWS][TW_MOST_VECTORS];
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
        sum[i][j] = fresh ? set_f32(0.0f) : load_f32(c + i * c_row + j * TW_LANES);
    for (int64_t k = 0; k < depth; k++) {
        f32v row[TW_MOST_VECTORS];
        TW_UNROLL TW_FOR(j, vectors) {
            const float *p = b + k * b_deep + j * TW_LANES;
            row[j] = j == vectors - 1 ? load_part_f32(p, live) : load_f32(p);
        }
        TW_UNROLL TW_FOR(i, rows) {
            const f32v x = set_f32(a[i * a_row + k * a_deep]);
            TW_UNROLL TW_FOR(j, vectors) sum[i][j] += x * row[j];
        }
    }
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) store_f32(c + i * c_row + j * TW_LANES, sum[i][j]);
}

/* The same with rows in pieces: c[i][j] (+)= sum over t and k of a[t * a_tap + i][shift + k] * b[t * b_tap + k * b_deep + j],
 * where a holds the addresses of the pieces. */
TW_INLINE void mma_runs_f32(const int rows, const int vectors, const int64_t live, const int fresh, const int64_t taps,
                            const int64_t depth, const float *const *TW_RESTRICT a, const int64_t a_tap,
                            const int64_t shift, const float *TW_RESTRICT b, const int64_t b_tap, const int64_t b_deep,
                            float *TW_RESTRICT c, const int64_t c_row) {
    f32v sum[TW_MOST_ROWS][TW_MOST_VECTORS];
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
        sum[i][j] = fresh ? set_f32(0.0f) : load_f32(c + i * c_row + j * TW_LANES);
    for (int64_t t = 0; t < taps; t++) {
        const float *run[TW_MOST_ROWS];
        TW_UNROLL TW_FOR(i, rows) run[i] = a[t * a_tap + i] + shift;
        for (int64_t k = 0; k < depth; k++) {
            f32v row[TW_MOST_VECTORS];
            TW_UNROLL TW_FOR(j, vectors) {
                const float *p = b + t * b_tap + k * b_deep + j * TW_LANES;
                row[j] = j == vectors - 1 ? load_part_f32(p, live) : load_f32(p);
            }
            TW_UNROLL TW_FOR(i, rows) {
                const f32v x = set_f32(run[i][k]);
                TW_UNROLL TW_FOR(j, vectors) sum[i][j] += x * row[j];
            }
        }
    }
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) store_f32(c + i * c_row + j * TW_LANES, sum[i][j]);
}

#endif
