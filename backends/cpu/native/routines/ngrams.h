/* How often each n-gram of a pool occurs in each row, weighed.
 *
 * buffers: x[rows, n], items of the pool (n-grams of one length together, the shortest first, sorted), counts (n-grams
 * of each length), columns and weights of each n-gram, y[rows, columns]; dims: n, columns, the shortest and the longest
 * length counted, items that may be skipped between two at most, mode (0: counts, 1: the weight where there are any,
 * 2: counts times weights). grid: rows.
 */
#include <stddef.h>

#include "routine.h"

/* The number of the n-gram of `length` items that starts at x and takes every `stride`-th; -1 where there is none. */
TW_INLINE int64_t find_gram(const tw_args *args, int64_t x, int64_t stride, int64_t length, int64_t start,
                            int64_t count) {
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = (low + high) / 2, order = 0;
        for (int64_t i = 0; i < length && order == 0; i++) {
            int64_t item = GET1(start + middle * length + i), here = (int64_t)GET0(x + i * stride);
            order = (item < here) - (item > here);
        }
        if (order == 0) return middle;
        if (order > 0) low = middle + 1;
        else high = middle;
    }
    return -1;
}

TW_DEFINE(ROUTINE) {
    int64_t n = DIM(0), columns = DIM(1), shortest = DIM(2), longest = DIM(3), skips = DIM(4), mode = DIM(5);
    for (int64_t row = begin; row < end; row++) {
        for (int64_t c = 0; c < columns; c++) PUT5(row * columns + c, 0);
        for (int64_t length = 1, start = 0, first = 0; length <= longest; length++) {
            int64_t count = GET2(length - 1);
            /* A single item has no neighbours to skip to. */
            int64_t most = length == 1 ? 1 : min_int(skips + 1, n);
            for (int64_t stride = 1; length >= shortest && stride <= most; stride++) {
                for (int64_t at = 0; at + (length - 1) * stride < n; at++) {
                    int64_t gram = find_gram(args, row * n + at, stride, length, start, count);
                    if (gram < 0) continue;
                    int64_t to = row * columns + GET3(first + gram);
                    float weight = GET4(first + gram);
                    PUT5(to, mode == 1 ? weight : GET5(to) + (mode == 0 ? 1.0f : weight));
                }
            }
            start += count * length;
            first += count;
        }
    }
}
