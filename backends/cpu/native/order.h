/* The order of elements of any type as that of unsigned integers, and sorting by it.
 *
 * NaN comes after everything else, all NaNs are equal, and so are the two zeros.
 */
#ifndef TW_ORDER_H
#define TW_ORDER_H
#include <stddef.h>

#include "routine.h"

TW_INLINE uint32_t tw_key_f32(float x) {
    uint32_t b = tw_float_to_bits(x + 0.0f);
    return x != x ? UINT32_MAX : b ^ ((uint32_t)((int32_t)b >> 31) | 0x80000000u);
}
TW_INLINE uint64_t tw_key_f64(double x) {
    uint64_t b;
    x += 0.0;
    memcpy(&b, &x, sizeof b);
    return x != x ? UINT64_MAX : b ^ ((uint64_t)((int64_t)b >> 63) | (uint64_t)1 << 63);
}
TW_INLINE uint32_t tw_key_u32(uint32_t x) { return x; }
TW_INLINE uint64_t tw_key_u64(uint64_t x) { return x; }
TW_INLINE uint32_t tw_key_i32(int32_t x) { return (uint32_t)x ^ 0x80000000u; }
TW_INLINE uint64_t tw_key_i64(int64_t x) { return (uint64_t)x ^ (uint64_t)1 << 63; }
#define TW_KEY(v)                                                                                                    \
    _Generic((v), float: tw_key_f32, double: tw_key_f64, uint8_t: tw_key_u32, uint16_t: tw_key_u32,                  \
             uint32_t: tw_key_u32, uint64_t: tw_key_u64, int64_t: tw_key_i64, default: tw_key_i32)(v)

/* An element's key and where it stands. */
typedef struct {
    uint64_t key;
    int64_t at;
} tw_ranked;

TW_INLINE int tw_before(tw_ranked a, tw_ranked b) { return a.key < b.key || (a.key == b.key && a.at < b.at); }

/* Sorts `a` by key; equal keys keep their order. `other` has the same length; the result is in `a`. */
static void tw_sort(tw_ranked *a, tw_ranked *other, int64_t n) {
    if (n <= 32) {
        for (int64_t i = 1; i < n; i++) {
            tw_ranked x = a[i];
            int64_t j = i;
            for (; j > 0 && x.key < a[j - 1].key; j--) a[j] = a[j - 1];
            a[j] = x;
        }
        return;
    }
    uint64_t differ = 0; /* the bits that are not the same in all keys */
    for (int64_t i = 1; i < n; i++) differ |= a[i].key ^ a[0].key;
    tw_ranked *from = a, *to = other;
    for (int shift = 0; shift < 64; shift += 8) {
        if (!(differ >> shift & 255)) continue;
        int64_t start[256] = {0}, sum = 0;
        for (int64_t i = 0; i < n; i++) start[from[i].key >> shift & 255]++;
        for (int d = 0; d < 256; d++) {
            int64_t count = start[d];
            start[d] = sum;
            sum += count;
        }
        for (int64_t i = 0; i < n; i++) to[start[from[i].key >> shift & 255]++] = from[i];
        tw_ranked *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof *a);
}

/* Restores the heap below `root`, where the last in order is at the root of each tree. */
TW_INLINE void tw_sift(tw_ranked *heap, int64_t count, int64_t root) {
    tw_ranked x = heap[root];
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && tw_before(heap[child], heap[child + 1])) child++;
        if (!tw_before(x, heap[child])) break;
        heap[root] = heap[child];
    }
    heap[root] = x;
}

#endif
