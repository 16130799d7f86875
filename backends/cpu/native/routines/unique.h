/* Distinct slices along an axis, in ascending order or that of their first occurrence. A slice is compared element by
 * element in row-major order; NaNs are equal.
 *
 * buffers: x[outer, n, inner], ranked[4 * n] (memory to work in), count[1], first[n] and counts[n] (for each distinct
 * slice, of which `count` are written), inverse[n]; dims: outer, n, inner, sorted.
 */
#include "order.h"

TW_INLINE int compare_slices(const tw_args *args, int64_t a, int64_t b) {
    int64_t outer = DIM(0), n = DIM(1), inner = DIM(2);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            uint64_t left = TW_KEY(GET0((o * n + a) * inner + i)), right = TW_KEY(GET0((o * n + b) * inner + i));
            if (left != right) return left < right ? -1 : 1;
        }
    }
    return 0;
}

/* Sorts what the first elements leave equal: runs of two lengths that double are merged; equal slices keep their order. */
static void sort_slices(const tw_args *args, tw_ranked *a, tw_ranked *other, int64_t n) {
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t start = 0; start < n; start += 2 * width) {
            int64_t middle = min_int(start + width, n), end = min_int(start + 2 * width, n);
            for (int64_t i = start, j = middle, to = start; to < end; to++) {
                int left = j == end || (i < middle && compare_slices(args, a[i].at, a[j].at) <= 0);
                other[to] = left ? a[i++] : a[j++];
            }
        }
        tw_ranked *swapped = a;
        a = other;
        other = swapped;
    }
    /* An odd number of passes ends in the other half: the caller is given back what it passed, sorted. */
    int passes = 0;
    for (int64_t width = 1; width < n; width *= 2) passes++;
    if (passes % 2) memcpy(other, a, (size_t)n * sizeof *a);
}

TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t n = DIM(1), found = 0, whole = DIM(0) * DIM(2) == 1;
    tw_ranked *ranked = BUFFER(1), *other = ranked + n;
    int64_t *count = BUFFER(2), *first = BUFFER(3), *counts = BUFFER(4), *inverse = BUFFER(5);
    for (int64_t i = 0; i < n; i++) ranked[i] = (tw_ranked){whole ? TW_KEY(GET0(i)) : 0, i};
    if (whole) tw_sort(ranked, other, n);
    else sort_slices(args, ranked, other, n);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = ranked[i].at;
        int same = i > 0 && (whole ? ranked[i].key == ranked[i - 1].key : !compare_slices(args, at, ranked[i - 1].at));
        if (!same) {
            first[found] = at;
            counts[found++] = 0;
        }
        counts[found - 1]++;
        inverse[at] = found - 1;
    }
    *count = found;
    if (DIM(3)) return;
    /* In order of first occurrence: rank the distinct ones by where they stand first. */
    for (int64_t u = 0; u < found; u++) ranked[u] = (tw_ranked){(uint64_t)first[u], u};
    tw_sort(ranked, other, found);
    int64_t *number = (int64_t *)other, *times = number + found;
    for (int64_t u = 0; u < found; u++) {
        number[ranked[u].at] = u;
        times[u] = counts[ranked[u].at];
        first[u] = (int64_t)ranked[u].key;
    }
    for (int64_t u = 0; u < found; u++) counts[u] = times[u];
    for (int64_t i = 0; i < n; i++) inverse[i] = number[inverse[i]];
}
