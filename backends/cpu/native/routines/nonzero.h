/* Positions of the elements that are not zero, in row-major order.
 *
 * buffers: x, positions[rank, count]; dims: count, rank, sizes of x. A scalar counts as a vector of one element.
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t count = DIM(0), rank = DIM(1), found = 0, elements = 1;
    for (int64_t d = 0; d < rank; d++) elements *= DIM(2 + d);
    for (int64_t i = 0; i < elements && found < count; i++) {
        if (GET0(i) == 0) continue;
        int64_t rest = i;
        for (int64_t d = rank - 1; d >= 0; d--) {
            PUT1(d * count + found, rest % DIM(2 + d));
            rest /= DIM(2 + d);
        }
        found++;
    }
}
