/* The distinct slices themselves, where each stands first and how often it occurs.
 *
 * buffers: x[outer, n, inner], first[n], times[n], y[outer, count, inner], indices[count], counts[count];
 * dims: outer, n, inner, count.
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t outer = DIM(0), n = DIM(1), inner = DIM(2), count = DIM(3);
    const int64_t *first = BUFFER(1);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t u = 0; u < count; u++) {
            const T0 *slice = (const T0 *)BUFFER(0) + (o * n + first[u]) * inner;
            memcpy((T3 *)BUFFER(3) + (o * count + u) * inner, slice, (uint64_t)inner * sizeof(T0));
        }
    }
    for (int64_t u = 0; u < count; u++) {
        PUT4(u, first[u]);
        PUT5(u, GET2(u));
    }
}
