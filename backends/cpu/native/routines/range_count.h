/* How many numbers lie from start up to limit in steps of delta. buffers: start[1], limit[1], delta[1], count[1]. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    double start = (double)GET0(0), limit = (double)GET1(0), delta = (double)GET2(0);
    double steps = (limit - start) / delta;
    int64_t count = 0;
    if (!(delta != 0.0 && steps < 0x1p48))
        REFUSE(); /* also where one of them is no number */
    else if (steps > 0.0) {
        count = (int64_t)steps;
        count += (double)count < steps;
    }
    PUT3(0, count);
}
