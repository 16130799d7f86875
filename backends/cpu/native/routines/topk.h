/* The k first elements in descending or ascending order, of each row along an axis; of equal ones the earlier first.
 * A NaN counts as the largest.
 *
 * buffers: x[outer, n, inner], values[outer, k, inner], positions[outer, k, inner]; dims: n, inner, k, largest.
 * grid: outer * inner; scratch: 32 * min(n, 8 * k) bytes.
 */
#include "order.h"

/* Elements that are compared with the last of the best at once. */
#define STRETCH 32

typedef __typeof__(TW_KEY((V0)0)) key_type;
#define KEY(i) (key_type)(TW_KEY(GET0(i)) ^ (key_type)flip)

TW_INLINE int any_before(const tw_args *args, int64_t x, key_type flip, key_type last) {
    key_type any = 0;
    for (int64_t i = 0; i < STRETCH; i++) any |= KEY(x + i) < last;
    return any != 0;
}

TW_DEFINE(ROUTINE) {
    int64_t n = DIM(0), inner = DIM(1), k = DIM(2);
    uint64_t flip = DIM(3) ? UINT64_MAX : 0;
    if (k < 1) return;
    tw_ranked *best = args->scratch;
    for (int64_t row = begin; row < end && k > 0; row++) {
        int64_t x = row / inner * n * inner + row % inner, y = row / inner * k * inner + row % inner;
        if (8 * k <= n) {
            int64_t i = 0;
            for (; i < k; i++) best[i] = (tw_ranked){KEY(x + i * inner), i};
            for (int64_t root = k / 2 - 1; root >= 0; root--) tw_sift(best, k, root);
            while (i < n) {
                int64_t next = min_int(n, i + STRETCH);
                int whole = inner == 1 && next == i + STRETCH;
                if (whole && !any_before(args, x + i, (key_type)flip, (key_type)best[0].key)) i = next;
                for (; i < next; i++) {
                    uint64_t key = KEY(x + i * inner);
                    if (key >= best[0].key) continue; /* a later one of equal key is not taken either */
                    best[0] = (tw_ranked){key, i};
                    tw_sift(best, k, 0);
                }
            }
            for (int64_t rest = k - 1; rest > 0; rest--) {
                tw_ranked last = best[0];
                best[0] = best[rest];
                best[rest] = last;
                tw_sift(best, rest, 0);
            }
        } else {
            for (int64_t i = 0; i < n; i++) best[i] = (tw_ranked){KEY(x + i * inner), i};
            tw_sort(best, best + n, n);
        }
        for (int64_t i = 0; i < k; i++) {
            ((T1 *)BUFFER(1))[y + i * inner] = ((T0 *)BUFFER(0))[x + best[i].at * inner];
            PUT2(y + i * inner, best[i].at);
        }
    }
}
