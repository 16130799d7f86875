/* Output sizes of a resize by scales, floor(size * scale) in 32 bits, and how many pixels take part along each axis:
 * one where the scale is 1.
 *
 * buffers: scales, found[2 * count] (sizes, then pixels); dims: count, neighbours to each side, whether they are spread
 * when the image shrinks, largest size, sizes of the input.
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t count = DIM(0), reach = DIM(1), spread = DIM(2), largest = DIM(3);
    for (int64_t n = 0; n < count; n++) {
        float scale = (float)GET0(n), size = (float)DIM(4 + n) * scale;
        int64_t out = 0, pixels = 1;
        if (scale > 0 && size <= (float)(largest - 1024))
            out = (int64_t)size;
        else
            REFUSE();
        if (reach > 0 && scale != 1) {
            pixels = reach;
            if (spread && out > 0) pixels = max_int(reach, (reach * DIM(4 + n) + out - 1) / out);
            pixels *= 2;
        }
        PUT1(n, out);
        PUT1(count + n, pixels);
    }
}
