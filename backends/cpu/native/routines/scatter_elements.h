#include "scatter_combine.h"

/* x with elements combined into it along an axis, in their order; a block for each position of the axes before it.
 *
 * buffers: x, indices, updates, out; dims: op, axis, rank, sizes of x[rank], sizes of indices[rank].
 */
TW_DEFINE(ROUTINE) {
    int64_t op = DIM(0), axis = DIM(1), rank = DIM(2);
#define SIZE(d) DIM(3 + (d))
#define PART(d) DIM(3 + rank + (d))
    int64_t slab = 1, part = 1, after = 1;
    for (int64_t d = axis; d < rank; d++) slab *= SIZE(d), part *= PART(d);
    for (int64_t d = axis + 1; d < rank; d++) after *= SIZE(d);
    for (int64_t b = begin; b < end; b++) {
        memcpy((T3 *)BUFFER(3) + b * slab, (const T0 *)BUFFER(0) + b * slab, (uint64_t)slab * sizeof(T0));
        /* Which of the indices lie at this position of the axes before, if any do. */
        int64_t rest = b, first = 0, scale = 1, inside = 1;
        for (int64_t d = axis - 1; d >= 0; d--) {
            int64_t i = rest % SIZE(d);
            rest /= SIZE(d);
            inside &= i < PART(d);
            first += i * scale;
            scale *= PART(d);
        }
        for (int64_t e = 0; inside && e < part; e++) {
            int64_t left = e, place = 0, stride = 1;
            for (int64_t d = rank - 1; d > axis; d--) {
                place += left % PART(d) * stride;
                left /= PART(d);
                stride *= SIZE(d);
            }
            int64_t from = first * part + e, i = (int64_t)GET1(from);
            i += i < 0 ? SIZE(axis) : 0;
            if (i < 0 || i >= SIZE(axis)) {
                REFUSE();
                continue;
            }
            place += b * slab + i * after;
            PUT3(place, combined(op, GET3(place), GET2(from)));
        }
    }
#undef SIZE
#undef PART
}
