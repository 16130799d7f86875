/* The slices of x[grid, size, after] whose condition holds.
 *
 * buffers: x, condition, out[grid, count, after]; dims: conditions, size, after, count.
 */
TW_DEFINE(ROUTINE) {
    int64_t conditions = min_int(DIM(0), DIM(1)), size = DIM(1), after = DIM(2), count = DIM(3);
    for (int64_t b = begin; b < end; b++) {
        const T0 *x = (const T0 *)BUFFER(0) + b * size * after;
        T2 *out = (T2 *)BUFFER(2) + b * count * after;
        int64_t found = 0;
        for (int64_t i = 0; i < conditions && found < count; i++) {
            if (GET1(i) == 0) continue;
            memcpy(out + found * after, x + i * after, (uint64_t)after * sizeof(T0));
            found++;
        }
    }
}
