/* The most samples that a bin of any region has along y and x.
 *
 * buffers: regions[n, 4] (x, y, x, y), most[2]; dims: n, bins along y, bins along x, whether regions are moved by half a
 * pixel (and may be smaller than one), bits of the scale, the limit.
 */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    for (int64_t d = 0; d < 2; d++) {
        V0 scale = (V0)tw_float_of(DIM(4)), half = (V0)(DIM(3) ? 0.5 : 0), most = 0;
        for (int64_t n = 0; n < DIM(0); n++) {
            V0 start = GET0(4 * n + 1 - d) * scale - half, stop = GET0(4 * n + 3 - d) * scale - half;
            V0 length = stop - start;
            if (!DIM(3) && !(length >= 1)) length = 1;
            length /= (V0)DIM(1 + d);
            if (!(length <= (V0)DIM(5))) {
                REFUSE();
                length = 0;
            }
            if (length > most) most = length;
        }
        int64_t whole = (int64_t)most;
        PUT1(d, whole + (most > (V0)whole));
    }
}
