/* Sums (or whatever COMBINE says, from START on) along the middle one of three axes.
 *
 * buffers: x, y; dims: outer, size, inner, exclusive, reverse. A block is up to CHUNK neighbours along the inner
 * axis, so that memory is read in runs; half precisions are accumulated in f32.
 */
#define CHUNK 64
TW_DEFINE(ROUTINE) {
    int64_t size = DIM(1), inner = DIM(2), exclusive = DIM(3), reverse = DIM(4), chunks = (inner + CHUNK - 1) / CHUNK;
    for (int64_t block = begin; block < end; block++) {
        int64_t first = block % chunks * CHUNK, count = min_int(CHUNK, inner - first);
        int64_t start = block / chunks * size * inner + first;
        V1 total[CHUNK];
        for (int64_t i = 0; i < count; i++) total[i] = START;
        for (int64_t n = 0; n < size; n++) {
            int64_t row = start + (reverse ? size - 1 - n : n) * inner;
            for (int64_t i = 0; i < count; i++) {
                V1 before = total[i];
                total[i] = COMBINE(before, GET0(row + i));
                PUT1(row + i, exclusive ? before : total[i]);
            }
        }
    }
}
