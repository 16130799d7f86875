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

/* ---- the same in pieces of the depth ---------------------------------------------------------------------------
 *
 * sum[i][j] += over k of run[i][k] * b[k * b_deep + j], for rows whose addresses are given. Whole vectors of b are
 * read. While it runs, one line of b for each eighth step is brought near, from `ahead` on: what the next piece reads.
 * The inner loops must not be unrolled: clang would gather the elements of `run` into vectors and take them apart. */
TW_INLINE void add_step_f32(const int rows, const int vectors, const float *const *run, const int64_t k,
                            const float *TW_RESTRICT b, f32v (*sum)[TW_MOST_VECTORS]) {
    f32v row[TW_MOST_VECTORS];
    TW_UNROLL TW_FOR(j, vectors) row[j] = load_f32(b + j * TW_LANES);
    TW_UNROLL TW_FOR(i, rows) {
        const f32v x = set_f32(run[i][k]);
        TW_UNROLL TW_FOR(j, vectors) sum[i][j] += x * row[j];
    }
}

TW_INLINE void add_piece_f32(const int rows, const int vectors, const int64_t depth, const float *const *run,
                             const float *TW_RESTRICT b, const int64_t b_deep, const float *ahead,
                             f32v (*sum)[TW_MOST_VECTORS]) {
    int64_t k = 0;
    for (; k + 8 <= depth; ahead += b_deep) {
        __builtin_prefetch(ahead, 0, 2);
        TW_ROLLED for (const int64_t stop = k + 8; k < stop; k++)
            add_step_f32(rows, vectors, run, k, b + k * b_deep, sum);
    }
    TW_ROLLED for (; k < depth; k++) add_step_f32(rows, vectors, run, k, b + k * b_deep, sum);
}

/* Rows with one stride. */
TW_INLINE void add_rows_f32(const int rows, const int vectors, const int64_t depth, const float *a, const int64_t a_row,
                            const float *b, const int64_t b_deep, const float *ahead,
                            f32v (*sum)[TW_MOST_VECTORS]) {
    const float *run[TW_MOST_ROWS];
    TW_UNROLL TW_FOR(i, rows) run[i] = a + i * a_row;
    add_piece_f32(rows, vectors, depth, run, b, b_deep, ahead, sum);
}

/* Rows of which a[t * a_tap + i] tells where piece t of row i begins; from piece to piece b moves by b_tap. */
TW_INLINE void add_runs_f32(const int rows, const int vectors, const int64_t taps, const int64_t depth,
                            const float *const *a, const int64_t a_tap, const int64_t shift, const float *b,
                            const int64_t b_tap, const int64_t b_deep, const float *ahead,
                            f32v (*sum)[TW_MOST_VECTORS]) {
    TW_ROLLED for (int64_t t = 0; t < taps; t++, ahead += depth / 8 * b_deep) {
        const float *run[TW_MOST_ROWS];
        TW_UNROLL TW_FOR(i, rows) run[i] = a[t * a_tap + i] + shift;
        add_piece_f32(rows, vectors, depth, run, b + t * b_tap, b_deep, ahead, sum);
    }
}

TW_INLINE void start_sums_f32(const int rows, const int vectors, const int first, const float *c, const int64_t c_row,
                              f32v (*sum)[TW_MOST_VECTORS]) {
    if (first) TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) sum[i][j] = set_f32(0.0f);
    else TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) sum[i][j] = load_f32(c + i * c_row + j * TW_LANES);
}

TW_INLINE void keep_sums_f32(const int rows, const int vectors, f32v (*sum)[TW_MOST_VECTORS], float *c,
                             const int64_t c_row) {
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) store_f32(c + i * c_row + j * TW_LANES, sum[i][j]);
}

#endif
