/* buffers: x, count[1]; dims: elements. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t count = 0;
    for (int64_t i = 0; i < DIM(0); i++) count += GET0(i) != 0;
    PUT1(0, count);
}
