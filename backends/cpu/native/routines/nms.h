/* Greedy non-maximum suppression of one class of one image a block: boxes in descending order of score (the earlier
 * first among equals, NaN last), without those that overlap a box chosen before by more than a threshold.
 *
 * buffers: boxes[images, n, 4], scores[images, classes, n], most[1], overlap[1], threshold[1], chosen[images * classes,
 * n], counts[images * classes]; dims: n, classes, boxes are given by centre and size, then whether `most`, `overlap`
 * and `threshold` are there (without `most` nothing is chosen). grid: images * classes; scratch: 48 * n bytes.
 */
#include "order.h"

typedef struct {
    float low[2], high[2];
} box;

TW_INLINE box box_of(float a, float b, float c, float d, int64_t centred) {
    if (centred) return (box){{a - c / 2, b - d / 2}, {a + c / 2, b + d / 2}};
    return (box){{a < c ? a : c, b < d ? b : d}, {a < c ? c : a, b < d ? d : b}};
}

/* Whether the intersection of two boxes is more than `limit` of their union; never where one of them is empty. */
TW_INLINE int overlap(const box *a, const box *b, float limit) {
    float common = 1, first = 1, second = 1;
    for (int d = 0; d < 2; d++) {
        float low = a->low[d] > b->low[d] ? a->low[d] : b->low[d];
        float high = a->high[d] < b->high[d] ? a->high[d] : b->high[d];
        if (!(high > low)) return 0;
        common *= high - low;
        first *= a->high[d] - a->low[d];
        second *= b->high[d] - b->low[d];
    }
    float either = first + second - common;
    return common > 0 && first > 0 && second > 0 && either > 0 && common / either > limit;
}

TW_DEFINE(ROUTINE) {
    int64_t n = DIM(0), classes = DIM(1), most = DIM(3) ? min_int(max_int(GET2(0), 0), n) : 0;
    float limit = DIM(4) ? GET3(0) : 0.0f;
    tw_ranked *ranked = args->scratch;
    box *kept = (box *)(ranked + 2 * n);
    for (int64_t block = begin; block < end; block++) {
        int64_t candidates = 0, found = 0, boxes = block / classes * n;
        for (int64_t i = 0; i < n && most > 0; i++) {
            float score = GET1(block * n + i);
            if (DIM(5) && !(score > GET4(0))) continue;
            ranked[candidates++] = (tw_ranked){score != score ? UINT64_MAX : ~tw_key_f32(score), i};
        }
        tw_sort(ranked, ranked + n, candidates);
        for (int64_t c = 0; c < candidates && found < most; c++) {
            int64_t at = 4 * (boxes + ranked[c].at);
            box next = box_of(GET0(at), GET0(at + 1), GET0(at + 2), GET0(at + 3), DIM(2));
            int64_t k = 0;
            while (k < found && !overlap(&kept[k], &next, limit)) k++;
            if (k < found) continue;
            kept[found] = next;
            PUT5(block * n + found++, ranked[c].at);
        }
        PUT6(block, found);
    }
}
