/* buffers: chosen[blocks, n], counts[blocks], rows[total, 3] of image, class and box; dims: blocks, n, classes. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t n = DIM(1), classes = DIM(2), row = 0;
    for (int64_t block = 0; block < DIM(0); block++) {
        for (int64_t i = 0; i < GET1(block); i++, row++) {
            PUT2(3 * row, block / classes);
            PUT2(3 * row + 1, block % classes);
            PUT2(3 * row + 2, GET0(block * n + i));
        }
    }
}
