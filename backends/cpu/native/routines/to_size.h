/* A number as a size, cut towards zero. buffers: x[1], size[1]. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    double x = (double)GET0(0);
    if (!(x > -1.0 && x < 0x1p48)) {
        REFUSE();
        x = 0.0;
    }
    PUT1(0, (int64_t)x);
}
