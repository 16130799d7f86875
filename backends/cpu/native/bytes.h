/* Sums of products over one block of a reduction, with weights of 4 or 8 bits that become wide in registers.
 *
 * Weights lie in panels of 32 columns. For each column, 4 bytes stand together: of 8-bit weights those of 4 successive
 * steps k … k + 3; of 4-bit ones those of 8, steps k … k + 3 in the low halves and k + 4 … k + 7 in the high ones. So
 * the 32-bit lanes of a vector are columns at every vector width, as instructions that add four products want it.
 *
 * rows, vectors, bits and is_signed are literals everywhere. The sums of integers are exact for every weight and every
 * 8-bit x. `part[i][j]` is the sum of row i in the columns of vector j. */
#ifndef TW_BYTES_H
#define TW_BYTES_H
#include "vec.h"

#define TW_BLOCK_ROWS 14
#define TW_BLOCK_VECTORS 8
/* Bytes from one group of four bytes a column to the next: a panel of 32 columns. */
#define TW_GROUP 128

typedef int32_t unaligned_i32 __attribute__((aligned(1), may_alias));
TW_INLINE i32v load_words(const uint8_t *p) { return *(const i32u *)p; }
/* Four successive bytes of x in every lane. */
TW_INLINE i32v set_bytes(const int8_t *x) { return set_i32(*(const unaligned_i32 *)x); }

/* One element of every lane's four bytes, as 32 bits: half `half` (of 4 bits) or all (of 8) of byte r. */
TW_INLINE i32v widened(const int bits, const int is_signed, const i32v w, const int r, const int half) {
    const int above = 32 - 8 * r - (bits == 4 ? 4 + 4 * half : 8);
    return is_signed ? (w << above) >> (32 - bits) : (i32v)((u32v)(w << above) >> (32 - bits));
}

/* Fetch the weights of the same columns that lie `ahead` bytes behind those of one group; 0: nothing. */
TW_INLINE void fetch(const int vectors, const int ahead, const uint8_t *w) {
    if (ahead) TW_UNROLL for (int line = 0; line < 4 * TW_LANES * vectors; line += 64)
        __builtin_prefetch(w + ahead + line, 0, 3);
}

/* ---- products of bytes, four to a lane ---------------------------------------------------------------------------- */

#if defined(__AVX512BW__) && TW_LANES == 16
#define TW_BUILTIN(name) __builtin_ia32_##name##512
#elif defined(__AVX2__) && TW_LANES == 8
#define TW_BUILTIN(name) __builtin_ia32_##name##256
#elif defined(__SSSE3__) && TW_LANES == 4
#define TW_BUILTIN(name) __builtin_ia32_##name##128
#endif

#ifdef TW_BUILTIN
typedef char bytes_v __attribute__((vector_size(4 * TW_LANES)));
typedef short halves_v __attribute__((vector_size(4 * TW_LANES)));
/* Pairs of products u8 · s8, saturated to 16 bits; pairs of products s16 · s16. */
TW_INLINE halves_v byte_pairs(i32v u, i32v s) { return (halves_v)TW_BUILTIN(pmaddubsw)((bytes_v)u, (bytes_v)s); }
TW_INLINE i32v half_pairs(halves_v a, halves_v b) { return (i32v)TW_BUILTIN(pmaddwd)(a, b); }
TW_INLINE halves_v ones_v(void) { return (halves_v)set_i32(0x00010001); }
/* sum + four products u8 · s8 a lane, where there is an instruction for it (the tests have another one do it). */
#if defined(__AVX512VNNI__) && TW_LANES == 16
#define TW_QUADS 1
TW_INLINE i32v add_quads(i32v sum, i32v u, i32v s) { return (i32v)__builtin_ia32_vpdpbusd512(sum, u, s); }
#elif defined(TW_QUADS_BY_PAIRS)
#define TW_QUADS 1
TW_INLINE i32v add_quads(i32v sum, i32v u, i32v s) { return sum + half_pairs(byte_pairs(u, s), ones_v()); }
#else
#define TW_QUADS 0
TW_INLINE i32v add_quads(i32v sum, i32v u, i32v s) { return sum; }
#endif

/* sums[b] = 8 · Σ x over block b: weights are multiplied as unsigned, 8 too large. */
TW_INLINE void sum_blocks(const int8_t *x, const int64_t blocks, const int64_t groups, int32_t *sums) {
    for (int64_t b = 0; b < blocks; b++) {
        int32_t total = 0;
        TW_FOR(n, 8 * groups) total += x[b * 8 * groups + n];
        sums[b] = 8 * total;
    }
}

/* Of 4-bit weights: a pair of products is at most 2 · 15 · 128, and the eight of four groups stay below 2^15. */
TW_INLINE void dot_4(const int rows, const int vectors, const int is_signed, const int ahead,
                     const int64_t groups, const int8_t *x,
                     const int64_t x_row, const uint8_t *w, const int32_t *sums, const int64_t sums_row,
                     i32v (*part)[TW_BLOCK_VECTORS]) {
    const i32v low = set_i32(0x0f0f0f0f), flip = set_i32((int32_t)0x88888888);
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
        part[i][j] = is_signed ? set_i32(-sums[i * sums_row]) : set_i32(0);
    for (int64_t first = 0; first < groups; first += 4) {
        const int64_t count = min_int(4, groups - first);
        halves_v sum[TW_BLOCK_ROWS][TW_BLOCK_VECTORS];
        TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) sum[i][j] = (halves_v)set_i32(0);
        TW_UNROLL for (int64_t q = first; q < first + count; q++) {
            i32v a[TW_BLOCK_VECTORS], b[TW_BLOCK_VECTORS];
            fetch(vectors, ahead, w + q * TW_GROUP);
            TW_UNROLL TW_FOR(j, vectors) {
                i32v y = load_words(w + q * TW_GROUP + 4 * TW_LANES * j);
                if (is_signed) y ^= flip;
                a[j] = y & low;
                b[j] = (i32v)((u32v)y >> 4) & low;
            }
            TW_UNROLL TW_FOR(i, rows) {
                const i32v c = set_bytes(x + i * x_row + 8 * q), d = set_bytes(x + i * x_row + 8 * q + 4);
                TW_UNROLL TW_FOR(j, vectors) {
                    if (TW_QUADS) part[i][j] = add_quads(add_quads(part[i][j], a[j], c), b[j], d);
                    else sum[i][j] += byte_pairs(a[j], c) + byte_pairs(b[j], d);
                }
            }
        }
        if (!TW_QUADS) TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
            part[i][j] += half_pairs(sum[i][j], ones_v());
    }
}

/* Of 8-bit weights: bytes 0 and 2 of each lane, and 1 and 3, as 16 bits. */
TW_INLINE void dot_8(const int rows, const int vectors, const int is_signed, const int ahead,
                     const int64_t groups, const int8_t *x,
                     const int64_t x_row, const uint8_t *w, i32v (*part)[TW_BLOCK_VECTORS]) {
    typedef unsigned short wide_u __attribute__((vector_size(4 * TW_LANES)));
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) part[i][j] = set_i32(0);
    for (int64_t q = 0; q < groups; q++) {
        halves_v even[TW_BLOCK_VECTORS], odd[TW_BLOCK_VECTORS];
        fetch(vectors, ahead, w + q * TW_GROUP);
        TW_UNROLL TW_FOR(j, vectors) {
            const i32v y = load_words(w + q * TW_GROUP + 4 * TW_LANES * j);
            even[j] = is_signed ? (halves_v)((wide_u)y << 8) >> 8 : (halves_v)((wide_u)y & 255);
            odd[j] = is_signed ? (halves_v)y >> 8 : (halves_v)((wide_u)y >> 8);
        }
        TW_UNROLL TW_FOR(i, rows) {
            const i32v y = set_bytes(x + i * x_row + 4 * q);
            const halves_v c = (halves_v)((wide_u)y << 8) >> 8, d = (halves_v)y >> 8;
            TW_UNROLL TW_FOR(j, vectors) part[i][j] += half_pairs(even[j], c) + half_pairs(odd[j], d);
        }
    }
}
#else
/* Lane by lane in 32 bits, on machines without products of bytes. */
TW_INLINE void sum_blocks(const int8_t *x, const int64_t blocks, const int64_t groups, int32_t *sums) {}

TW_INLINE void dot_wide(const int bits, const int rows, const int vectors, const int is_signed, const int ahead,
                     const int64_t groups,
                        const int8_t *x, const int64_t x_row, const uint8_t *w, i32v (*part)[TW_BLOCK_VECTORS]) {
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) part[i][j] = set_i32(0);
    for (int64_t q = 0; q < groups; q++) {
        fetch(vectors, ahead, w + q * TW_GROUP);
        TW_UNROLL TW_FOR(j, vectors) {
            const i32v y = load_words(w + q * TW_GROUP + 4 * TW_LANES * j);
            TW_UNROLL TW_FOR(e, 32 / bits) {
                const i32v wide = widened(bits, is_signed, y, e % 4, e / 4);
                TW_UNROLL TW_FOR(i, rows) part[i][j] += wide * set_i32(x[i * x_row + q * (32 / bits) + e]);
            }
        }
    }
}
#define dot_4(rows, vectors, is_signed, ahead, groups, x, x_row, w, sums, sums_row, part)                                   \
    dot_wide(4, rows, vectors, is_signed, ahead, groups, x, x_row, w, part)
#define dot_8(rows, vectors, is_signed, ahead, groups, x, x_row, w, part)                                                   \
    dot_wide(8, rows, vectors, is_signed, ahead, groups, x, x_row, w, part)
#endif

/* ---- products of f32 ------------------------------------------------------------------------------------------------ */

/* part[i][j] = Σ x · w over a block, in the order of the reduction. */
TW_INLINE void dot_float(const int bits, const int rows, const int vectors, const int is_signed, const int ahead,
                     const int64_t groups,
                         const float *x, const int64_t x_row, const uint8_t *w, f32v (*part)[TW_BLOCK_VECTORS]) {
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) part[i][j] = set_f32(0.0f);
    for (int64_t q = 0; q < groups; q++) {
        i32v y[TW_BLOCK_VECTORS];
        fetch(vectors, ahead, w + q * TW_GROUP);
        TW_UNROLL TW_FOR(j, vectors) y[j] = load_words(w + q * TW_GROUP + 4 * TW_LANES * j);
        TW_UNROLL TW_FOR(e, 32 / bits) {
            f32v wide[TW_BLOCK_VECTORS];
            TW_UNROLL TW_FOR(j, vectors) wide[j] = to(f32, widened(bits, is_signed, y[j], e % 4, e / 4));
            TW_UNROLL TW_FOR(i, rows) {
                const f32v a = set_f32(x[i * x_row + q * (32 / bits) + e]);
                TW_UNROLL TW_FOR(j, vectors) part[i][j] += a * wide[j];
            }
        }
    }
}

#endif
