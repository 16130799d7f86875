#include "scatter_combine.h"

/* x with slices combined into it, in their order.
 *
 * buffers: x, indices[rows, depth], updates[rows, slice], out; dims: elements, op, rows, depth, slice, sizes[depth].
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t op = DIM(1), rows = DIM(2), depth = DIM(3), slice = DIM(4);
    memcpy(BUFFER(3), BUFFER(0), (uint64_t)DIM(0) * sizeof(T0));
    for (int64_t r = 0; r < rows; r++) {
        int64_t place = 0, inside = 1;
        for (int64_t d = 0; d < depth; d++) {
            int64_t size = DIM(5 + d), i = (int64_t)GET1(r * depth + d);
            i += i < 0 ? size : 0;
            inside &= i >= 0 && i < size;
            place = place * size + i;
        }
        if (!inside) {
            REFUSE();
            continue;
        }
        for (int64_t e = 0; e < slice; e++) PUT3(place * slice + e, combined(op, GET3(place * slice + e), GET2(r * slice + e)));
    }
}
