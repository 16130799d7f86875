/* Elements put back where a pool found them; zero elsewhere.
 *
 * buffers: x, positions (row-major in the tensor that was pooled), y; dims: elements of x, rank, sizes of what was
 * pooled, sizes of y.
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t count = DIM(0), rank = DIM(1), pooled = 1, all = 1;
    for (int64_t d = 0; d < rank; d++) pooled *= DIM(2 + d), all *= DIM(2 + rank + d);
    memset(BUFFER(2), 0, (uint64_t)all * sizeof(T2));
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = (int64_t)GET1(i), at = 0, stride = 1;
        int inside = rest >= 0 && rest < pooled;
        for (int64_t d = rank - 1; d >= 0 && inside; d--) {
            int64_t position = rest % DIM(2 + d);
            rest /= DIM(2 + d);
            inside = position < DIM(2 + rank + d);
            at += position * stride;
            stride *= DIM(2 + rank + d);
        }
        if (inside)
            PUT2(at, GET0(i));
        else
            REFUSE();
    }
}
