/* How many of the conditions that there are positions for hold. buffers: condition, count[1]; dims: conditions, size. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    int64_t count = 0;
    for (int64_t i = 0; i < min_int(DIM(0), DIM(1)); i++) count += GET0(i) != 0;
    PUT1(0, count);
}
