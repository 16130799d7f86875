/* Sums of products of 8-bit integers, exact in 32 bits, on any instruction set.
 *
 * Operand b is packed in quads: of four neighbours of the depth for each of 32 columns, 128 bytes (TW_QUADS) a step,
 * zero beyond the last. Operand a is staged a tile of rows at a time, in chunks of 16 of the depth: chunk after chunk,
 * in each the 16 elements of every row, so that addresses of a whole chunk are constants. There are two forms of it:
 *
 * pairs: 16-bit elements, of each quad in the order 0, 2, 1, 3. Bytes of b become pairs of 16 bits, (0, 2) and (1, 3), by
 *        shifts; two products and their sum are one instruction (pmaddwd). An instruction that multiplies bytes without
 *        loss is not there below VNNI: pmaddubsw saturates at 16 bits.
 * bytes: unsigned bytes in order, for VNNI (vpdpbusd). Signed elements have 128 added, and sums start at -128 times the
 *        sum of a column of b.
 */
#ifndef TW_DOT8_H
#define TW_DOT8_H
#include "mma.h"

#define TW_QUADS 128
#define TW_CHUNK 16
#define TW_PANEL_VECTORS (32 / TW_LANES)

/* Sums and operands fill the registers. Loads of one step stay behind those of the step before, and a sum is in its
 * register after each addition: compilers would add products of several steps first, with spills. */
#define TW_STEP __asm__ volatile("" ::: "memory")
#if defined(__x86_64__) && defined(__AVX512F__)
#define TW_IN_REGISTER(x) __asm__ volatile("" : "+v"(x))
#elif defined(__x86_64__) && (TW_LANES == 4 || (TW_LANES == 8 && defined(__AVX__)))
#define TW_IN_REGISTER(x) __asm__ volatile("" : "+x"(x))
#elif defined(__aarch64__) && TW_LANES == 4
#define TW_IN_REGISTER(x) __asm__ volatile("" : "+w"(x))
#else
#define TW_IN_REGISTER(x) (void)0
#endif

/* ---- the products ------------------------------------------------------------------------------------------------ */

#if defined(__SSE2__)
typedef short s16x8 __attribute__((vector_size(16)));
typedef int s32x4 __attribute__((vector_size(16)));
#define TW_MADD_4(a, b) ((s32x4)__builtin_ia32_pmaddwd128((s16x8)(a), (s16x8)(b)))
typedef short s16x16 __attribute__((vector_size(32)));
typedef int s32x8 __attribute__((vector_size(32)));
#if defined(__AVX2__)
#define TW_MADD_8(a, b) ((s32x8)__builtin_ia32_pmaddwd256((s16x16)(a), (s16x16)(b)))
#endif
/* sum[l] += a0 * b[l][0] + a1 * b[l][1] for the pair (a0, a1) at a and a pair of b in each lane. */
TW_INLINE i32v add_pair(i32v sum, const int16_t *a, i32v b) {
    int32_t pair;
    memcpy(&pair, a, 4);
    const i32v x = set_i32(pair);
#if TW_LANES == 4
    return sum + TW_MADD_4(x, b);
#elif TW_LANES == 8 && defined(__AVX2__)
    return sum + TW_MADD_8(x, b);
#elif TW_LANES == 16 && defined(__AVX512BW__) && defined(__clang__)
    typedef short s16x32 __attribute__((vector_size(64)));
    return sum + (i32v)__builtin_ia32_pmaddwd512((s16x32)x, (s16x32)b);
#else /* in halves or quarters */
    union { i32v v; s32x4 part[TW_LANES / 4]; } y = {b}, z;
    TW_UNROLL TW_FOR(i, TW_LANES / 4) z.part[i] = TW_MADD_4(((s32x4){pair, pair, pair, pair}), y.part[i]);
    return sum + z.v;
#endif
}
/* Four bytes of b in each lane, as two pairs. */
TW_INLINE void split_quads_i8(i32v b, i32v *even, i32v *odd) {
    typedef short words __attribute__((vector_size(4 * TW_LANES)));
    *even = (i32v)(((words)b << 8) >> 8);
    *odd = (i32v)((words)b >> 8);
}
TW_INLINE void split_quads_u8(i32v b, i32v *even, i32v *odd) {
    typedef unsigned short words __attribute__((vector_size(4 * TW_LANES)));
    *even = b & 0x00ff00ff;
    *odd = (i32v)((words)b >> 8);
}
#else
/* The first half of a pair of b holds the elements of all lanes that belong to a0, the second those of a1: what widening
 * multiply-adds by one element (smlal) take. */
TW_INLINE i32v add_pair(i32v sum, const int16_t *a, i32v b) {
    union { i32v v; i16v half[2]; } y = {b};
    sum += to(i32, y.half[0]) * to(i32, set_i16(a[0]));
    return sum + to(i32, y.half[1]) * to(i32, set_i16(a[1]));
}
#define TW_SPLIT_QUADS(T)                                                                                            \
    TW_INLINE void split_quads_##T(i32v b, i32v *even, i32v *odd) {                                                  \
        union { i32v v; i16v half[2]; } x = {0}, y = {0};                                                            \
        TW_UNROLL TW_FOR(q, 2) {                                                                                     \
            x.half[q] = to(i16, b << (24 - 16 * q) >> 24);                                                           \
            y.half[q] = to(i16, b << (16 - 16 * q) >> 24);                                                           \
            if (#T[0] == 'u') x.half[q] &= 255, y.half[q] &= 255;                                                    \
        }                                                                                                            \
        *even = x.v;                                                                                                 \
        *odd = y.v;                                                                                                  \
    }
TW_SPLIT_QUADS(i8)
TW_SPLIT_QUADS(u8)
#endif

/* sum[l] += the four unsigned bytes at a times the four signed ones in lane l of b. */
TW_INLINE i32v add_quad(i32v sum, const uint8_t *a, i32v b) {
#if defined(__AVX512VNNI__) && TW_LANES == 16
    int32_t quad;
    memcpy(&quad, a, 4);
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(set_i32(quad)), "v"(b));
    return sum;
#else
    TW_UNROLL TW_FOR(q, 4) sum += (b << (24 - 8 * q) >> 24) * (int32_t)a[q];
    return sum;
#endif
}

/* One row: sum[j] += the pair (quad) at a times y[j]. Two vectors are spelled in full where compilers run short of
 * registers: 12 sums of 16, two operands, an element of a and a product. */
TW_INLINE void add_pair_row(const int vectors, i32v *sum, const int16_t *a, const i32v *y) {
#if defined(__AVX2__) && (TW_LANES == 8 || (TW_LANES == 16 && defined(__AVX512BW__)))
    if (vectors == 2) {
        i32v x, z;
        __asm__ volatile(
            "vpbroadcastd %[a], %[x]\n\tvpmaddwd %[y0], %[x], %[z]\n\tvpaddd %[z], %[s0], %[s0]\n\t"
            "vpmaddwd %[y1], %[x], %[x]\n\tvpaddd %[x], %[s1], %[s1]"
            : [s0] "+v"(sum[0]), [s1] "+v"(sum[1]), [x] "=&v"(x), [z] "=&v"(z)
            : [a] "m"(*(const int32_t *)a), [y0] "v"(y[0]), [y1] "v"(y[1]));
        return;
    }
#endif
    TW_UNROLL TW_FOR(j, vectors) {
        sum[j] = add_pair(sum[j], a, y[j]);
        TW_IN_REGISTER(sum[j]);
    }
}
TW_INLINE void add_quad_row(const int vectors, i32v *sum, const uint8_t *a, const i32v *y) {
#if defined(__AVX512VNNI__) && TW_LANES == 16
    if (vectors == 2) {
        i32v x;
        __asm__ volatile("vpbroadcastd %[a], %[x]\n\tvpdpbusd %[y0], %[x], %[s0]\n\tvpdpbusd %[y1], %[x], %[s1]"
                         : [s0] "+v"(sum[0]), [s1] "+v"(sum[1]), [x] "=&v"(x)
                         : [a] "m"(*(const int32_t *)a), [y0] "v"(y[0]), [y1] "v"(y[1]));
        return;
    }
#endif
    TW_UNROLL TW_FOR(j, vectors) sum[j] = add_quad(sum[j], a, y[j]);
}

/* The same where no element of b exceeds 64: pmaddubsw adds two products in 16 bits without loss. */
#if defined(__SSSE3__)
TW_INLINE i32v add_narrow_quad(i32v sum, const uint8_t *a, i32v b) {
    int32_t quad;
    memcpy(&quad, a, 4);
#if TW_LANES == 8 && defined(__AVX2__)
    typedef char s8x32 __attribute__((vector_size(32)));
    const s32x8 two = (s32x8)__builtin_ia32_pmaddubsw256((s8x32)set_i32(quad), (s8x32)b);
    return sum + TW_MADD_8(two, set_i32(0x10001));
#else /* in quarters */
    typedef char s8x16 __attribute__((vector_size(16)));
    union { i32v v; s32x4 part[TW_LANES / 4]; } y = {b}, z;
    const s32x4 x = {quad, quad, quad, quad}, ones = {0x10001, 0x10001, 0x10001, 0x10001};
    TW_UNROLL TW_FOR(i, TW_LANES / 4)
        z.part[i] = TW_MADD_4(__builtin_ia32_pmaddubsw128((s8x16)x, (s8x16)y.part[i]), ones);
    return sum + z.v;
#endif
}
#else
#define add_narrow_quad add_quad
#endif
TW_INLINE void add_narrow_row(const int vectors, i32v *sum, const uint8_t *a, const i32v *y) {
#if defined(__AVX2__) && TW_LANES == 8
    if (vectors == 2) {
        static const TW_ALIGN int32_t ones[8] = {0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001, 0x10001};
        i32v x, z;
        __asm__ volatile(
            "vpbroadcastd %[a], %[x]\n\tvpmaddubsw %[y0], %[x], %[z]\n\tvpmaddubsw %[y1], %[x], %[x]\n\t"
            "vpmaddwd %[o], %[z], %[z]\n\tvpaddd %[z], %[s0], %[s0]\n\t"
            "vpmaddwd %[o], %[x], %[x]\n\tvpaddd %[x], %[s1], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [x] "=&x"(x), [z] "=&x"(z)
            : [a] "m"(*(const int32_t *)a), [y0] "x"(y[0]), [y1] "x"(y[1]), [o] "m"(*(const i32v *)ones));
        return;
    }
#endif
    TW_UNROLL TW_FOR(j, vectors) sum[j] = add_narrow_quad(sum[j], a, y[j]);
}

/* ---- a strip of b as pairs --------------------------------------------------------------------------------------- */

/* The columns of `vectors` vectors of b as pairs, in the order of use; zero up to whole chunks. */
#define TW_WIDEN_STRIP(T)                                                                                            \
    TW_INLINE void widen_strip_##T(const int vectors, const int64_t quads, const void *b, int32_t *TW_RESTRICT to) { \
        for (int64_t q = 0; q < quads; q++, to += 2 * vectors * TW_LANES) {                                          \
            TW_UNROLL TW_FOR(j, vectors) {                                                                           \
                i32v even, odd;                                                                                      \
                split_quads_##T(load_i32((const int32_t *)((const char *)b + q * TW_QUADS) + j * TW_LANES), &even, &odd); \
                store_i32(to + j * TW_LANES, even);                                                                  \
                store_i32(to + (vectors + j) * TW_LANES, odd);                                                       \
            }                                                                                                        \
        }                                                                                                            \
        for (int64_t q = quads; q % (TW_CHUNK / 4); q++, to += 2 * vectors * TW_LANES)                               \
            TW_UNROLL TW_FOR(j, 2 * vectors) store_i32(to + j * TW_LANES, set_i32(0));                               \
    }
TW_WIDEN_STRIP(i8)
TW_WIDEN_STRIP(u8)

/* -128 times the sum of each column of a strip of b: where sums start whose elements of a have 128 added. */
#define TW_BALANCE(name, add)                                                                                        \
    TW_INLINE void name(const int vectors, const int64_t quads, const void *b, int32_t *TW_RESTRICT start) {         \
        static const uint8_t ones[4] = {1, 1, 1, 1};                                                                 \
        i32v sum[TW_PANEL_VECTORS];                                                                                  \
        TW_UNROLL TW_FOR(j, vectors) sum[j] = set_i32(0);                                                            \
        for (int64_t q = 0; q < quads; q++) TW_UNROLL TW_FOR(j, vectors) {                                           \
            const int32_t *at = (const int32_t *)((const char *)b + q * TW_QUADS) + j * TW_LANES;                    \
            sum[j] = add(sum[j], ones, load_i32(at));                                                                \
        }                                                                                                            \
        TW_UNROLL TW_FOR(j, vectors) store_i32(start + j * TW_LANES, sum[j] * -128);                                 \
    }
TW_BALANCE(balance_strip, add_quad)
TW_BALANCE(balance_narrow, add_narrow_quad)

/* ---- register tiles: rows and vectors are literals, `stride` rows in a chunk of a ------------------------------------ */

/* Sums start at 0, or what `start` has for each column, when `first`, else where they were kept. */
TW_INLINE void start_sums_i32(const int rows, const int vectors, const int first, const int32_t *start,
                              const int32_t *c, const int64_t c_row, i32v (*sum)[TW_PANEL_VECTORS]) {
    if (!first) TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
        sum[i][j] = load_i32(c + i * c_row + j * TW_LANES);
    else TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors)
        sum[i][j] = start ? load_i32(start + j * TW_LANES) : set_i32(0);
}

TW_INLINE void keep_sums_i32(const int rows, const int vectors, i32v (*sum)[TW_PANEL_VECTORS], int32_t *c,
                             const int64_t c_row) {
    TW_UNROLL TW_FOR(i, rows) TW_UNROLL TW_FOR(j, vectors) store_i32(c + i * c_row + j * TW_LANES, sum[i][j]);
}

/* A strip that was widened, `width` vectors of it. */
TW_INLINE void add_widened(const int rows, const int vectors, const int stride, const int width, int64_t chunks,
                           const int16_t *a, const void *widened, i32v (*sum)[TW_PANEL_VECTORS]) {
    const int32_t *b = widened;
    TW_ROLLED for (; chunks > 0; chunks--, a += stride * TW_CHUNK, b += TW_CHUNK / 2 * width * TW_LANES) {
        TW_UNROLL TW_FOR(t, TW_CHUNK / 2) {
            i32v y[TW_PANEL_VECTORS];
            TW_UNROLL TW_FOR(j, vectors) y[j] = load_i32(b + (t * width + j) * TW_LANES);
            TW_UNROLL TW_FOR(i, rows) add_pair_row(vectors, sum[i], a + i * TW_CHUNK + 2 * t, y);
            TW_STEP;
        }
    }
}

/* One quad of packed b: number q % 4 of its chunk, where a and b are. */
#define TW_ADD_PACKED(T)                                                                                             \
    TW_INLINE void add_packed_quad_##T(const int rows, const int vectors, const int16_t *a, const char *b,           \
                                       i32v (*sum)[TW_PANEL_VECTORS]) {                                              \
        TW_UNROLL TW_FOR(j, vectors) {                                                                               \
            i32v even, odd;                                                                                          \
            split_quads_##T(load_i32((const int32_t *)b + j * TW_LANES), &even, &odd);                               \
            TW_UNROLL TW_FOR(i, rows) {                                                                              \
                sum[i][j] = add_pair(sum[i][j], a + i * TW_CHUNK, even);                                             \
                TW_IN_REGISTER(sum[i][j]);                                                                           \
                sum[i][j] = add_pair(sum[i][j], a + i * TW_CHUNK + 2, odd);                                          \
                TW_IN_REGISTER(sum[i][j]);                                                                           \
            }                                                                                                        \
        }                                                                                                            \
        TW_STEP;                                                                                                     \
    }                                                                                                                \
    TW_INLINE void add_packed_##T(const int rows, const int vectors, const int stride, const int64_t quads,          \
                                  const int16_t *a, const void *packed, i32v (*sum)[TW_PANEL_VECTORS]) {             \
        const char *b = packed;                                                                                      \
        int64_t q = 0;                                                                                               \
        TW_ROLLED for (; q + 4 <= quads; q += 4, a += stride * TW_CHUNK, b += 4 * TW_QUADS) TW_UNROLL TW_FOR(t, 4)   \
            add_packed_quad_##T(rows, vectors, a + 4 * t, b + t * TW_QUADS, sum);                                    \
        TW_ROLLED for (; q < quads; q++, a += 4, b += TW_QUADS) add_packed_quad_##T(rows, vectors, a, b, sum);       \
    }
TW_ADD_PACKED(i8)
TW_ADD_PACKED(u8)

/* The same for a in bytes, with any b and with one of which no element exceeds 64. */
#define TW_ADD_BYTES(name, row)                                                                                      \
    TW_INLINE void name##_step(const int rows, const int vectors, const uint8_t *a, const char *b,                   \
                               i32v (*sum)[TW_PANEL_VECTORS]) {                                                      \
        i32v y[TW_PANEL_VECTORS];                                                                                    \
        TW_UNROLL TW_FOR(j, vectors) y[j] = load_i32((const int32_t *)b + j * TW_LANES);                             \
        TW_UNROLL TW_FOR(i, rows) row(vectors, sum[i], a + i * TW_CHUNK, y);                                         \
        TW_STEP;                                                                                                     \
    }                                                                                                                \
    TW_INLINE void name(const int rows, const int vectors, const int stride, const int64_t quads, const uint8_t *a,  \
                        const void *packed, i32v (*sum)[TW_PANEL_VECTORS]) {                                         \
        const char *b = packed;                                                                                      \
        int64_t q = 0;                                                                                               \
        TW_ROLLED for (; q + 4 <= quads; q += 4, a += stride * TW_CHUNK, b += 4 * TW_QUADS) TW_UNROLL TW_FOR(t, 4)   \
            name##_step(rows, vectors, a + 4 * t, b + t * TW_QUADS, sum);                                            \
        TW_ROLLED for (; q < quads; q++, a += 4, b += TW_QUADS) name##_step(rows, vectors, a, b, sum);               \
    }
TW_ADD_BYTES(add_bytes, add_quad_row)
TW_ADD_BYTES(add_narrow, add_narrow_row)

/* ---- staging of a: n elements of one row into its place in each chunk, step elements apart ------------------------ */

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16_any __attribute__((vector_size(16), aligned(1)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int16_t i16x16 __attribute__((vector_size(32)));
typedef int16_t i16x16_any __attribute__((vector_size(32), aligned(2)));

/* 16 elements as 16-bit ones in the order of pairs. */
TW_INLINE u8x16 pair_order(u8x16 x) {
    return __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
}
TW_INLINE i16x16 pairs_u8(u8x16 x) { return __builtin_convertvector(pair_order(x), i16x16); }
TW_INLINE i16x16 pairs_i8(u8x16 x) { return __builtin_convertvector((i8x16)pair_order(x), i16x16); }
TW_INLINE void put_pairs_u8(int16_t *to, u8x16 x) { *(i16x16_any *)to = pairs_u8(x); }
TW_INLINE void put_pairs_i8(int16_t *to, u8x16 x) { *(i16x16_any *)to = pairs_i8(x); }
TW_INLINE void put_bytes_u8(uint8_t *to, u8x16 x) { *(u8x16_any *)to = x; }
TW_INLINE void put_bytes_i8(uint8_t *to, u8x16 x) { *(u8x16_any *)to = x ^ 128; }

#define TW_STAGE(form, T, C)                                                                                         \
    TW_INLINE void stage_##form##_##T(const int64_t n, const void *from, C *TW_RESTRICT to, const int64_t step) {    \
        const uint8_t *x = from;                                                                                     \
        int64_t k = 0;                                                                                               \
        for (; k + TW_CHUNK <= n; k += TW_CHUNK, to += step) put_##form##_##T(to, *(const u8x16_any *)(x + k));      \
        if (k < n) {                                                                                                 \
            uint8_t rest[TW_CHUNK] = {0};                                                                            \
            for (int64_t i = 0; i < n - k; i++) rest[i] = x[k + i];                                                  \
            put_##form##_##T(to, *(const u8x16_any *)rest);                                                          \
        }                                                                                                            \
    }                                                                                                                \
    TW_INLINE void stage_##form##_##T##_fill(const int64_t n, const uint8_t fill, C *TW_RESTRICT to,                 \
                                             const int64_t step) {                                                   \
        const u8x16 x = (u8x16){0} + fill;                                                                           \
        for (int64_t k = 0; k < n; k += TW_CHUNK, to += step) put_##form##_##T(to, x);                               \
    }
TW_STAGE(pairs, u8, int16_t)
TW_STAGE(pairs, i8, int16_t)
TW_STAGE(bytes, u8, uint8_t)
TW_STAGE(bytes, i8, uint8_t)

/* ---- windows of 3 x 3 at distance 1: four outputs from 16 products (Winograd's F(2 x 2, 3 x 3)) -------------------------
 *
 * Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016: B'dB of 4 x 4 inputs and GgG' of 3 x 3
 * weights are multiplied position by position, A'mA of the sums is the outputs. All of it is exact here: inputs grow to
 * 11 bits and weights, times 4 (G has halves), to 12; the sums are 4 times the outputs. */
#define TW_SPOTS 16

#define TW_WINOGRAD_ROWS(T)                                                                                          \
    TW_INLINE void winograd_rows_##T(const int64_t n, const uint8_t *const *pixel, int16_t *TW_RESTRICT to,          \
                                     const int64_t spot, const int64_t step) {                                       \
        for (int64_t k = 0; k < n; k += TW_CHUNK, to += step) {                                                      \
            i16x16 t[4][4];                                                                                          \
            TW_UNROLL TW_FOR(q, 4) {                                                                                 \
                i16x16 d[4];                                                                                         \
                TW_UNROLL TW_FOR(p, 4) d[p] = pairs_##T(*(const u8x16_any *)(pixel[4 * p + q] + k));                 \
                t[0][q] = d[0] - d[2], t[1][q] = d[1] + d[2], t[2][q] = d[2] - d[1], t[3][q] = d[1] - d[3];          \
            }                                                                                                        \
            TW_UNROLL TW_FOR(p, 4) {                                                                                 \
                *(i16x16_any *)(to + (4 * p) * spot) = t[p][0] - t[p][2];                                            \
                *(i16x16_any *)(to + (4 * p + 1) * spot) = t[p][1] + t[p][2];                                        \
                *(i16x16_any *)(to + (4 * p + 2) * spot) = t[p][2] - t[p][1];                                        \
                *(i16x16_any *)(to + (4 * p + 3) * spot) = t[p][1] - t[p][3];                                        \
            }                                                                                                        \
        }                                                                                                            \
    }
TW_WINOGRAD_ROWS(u8)
TW_WINOGRAD_ROWS(i8)

typedef int16_t words16 __attribute__((vector_size(4 * TW_LANES)));

/* 4 GgG' of the pairs g of nine taps, `spot` elements apart. */
TW_INLINE void put_winograd_weights(const words16 *g, int32_t *to, const int64_t spot) {
    words16 t[4][3];
    TW_UNROLL TW_FOR(q, 3) {
        const words16 ends = g[q] + g[6 + q];
        t[0][q] = g[q] + g[q], t[1][q] = ends + g[3 + q], t[2][q] = ends - g[3 + q], t[3][q] = g[6 + q] + g[6 + q];
    }
    TW_UNROLL TW_FOR(p, 4) {
        const words16 ends = t[p][0] + t[p][2];
        store_i32(to + (4 * p) * spot, (i32v)(t[p][0] + t[p][0]));
        store_i32(to + (4 * p + 1) * spot, (i32v)(ends + t[p][1]));
        store_i32(to + (4 * p + 2) * spot, (i32v)(ends - t[p][1]));
        store_i32(to + (4 * p + 3) * spot, (i32v)(t[p][2] + t[p][2]));
    }
}

/* The columns of `vectors` vectors of nine taps of `quads` quads each, as add_widened reads them, for each spot. */
TW_INLINE void winograd_weights(const int vectors, const int64_t quads, const int8_t *b, int32_t *TW_RESTRICT to,
                                const int64_t spot) {
    for (int64_t q = 0; q < quads; q++, to += 2 * vectors * TW_LANES) {
        TW_UNROLL TW_FOR(j, vectors) {
            i32v even[9], odd[9];
            TW_UNROLL TW_FOR(tap, 9) {
                const int8_t *const at = b + (tap * quads + q) * TW_QUADS;
                split_quads_i8(load_i32((const int32_t *)at + j * TW_LANES), even + tap, odd + tap);
            }
            put_winograd_weights((const words16 *)even, to + j * TW_LANES, spot);
            put_winograd_weights((const words16 *)odd, to + (vectors + j) * TW_LANES, spot);
        }
    }
}

/* Outputs 0 and 1 of row r (0 or 1) of a window of outputs. */
TW_INLINE void winograd_sums(const int vectors, const int r, const int32_t *c, const int64_t spot,
                             i32v (*sum)[TW_PANEL_VECTORS]) {
    TW_UNROLL TW_FOR(j, vectors) {
        i32v s[4];
        TW_UNROLL TW_FOR(q, 4) {
            const int32_t *const m = c + (4 * r + q) * spot + j * TW_LANES;
            const i32v x = load_i32(m), y = load_i32(m + 4 * spot), z = load_i32(m + 8 * spot);
            s[q] = r ? x - y - z : x + y + z;
        }
        sum[0][j] = (s[0] + s[1] + s[2]) >> 2;
        sum[1][j] = (s[1] - s[2] - s[3]) >> 2;
    }
}

#endif
