/* Whether anything is dropped: in training mode, with a ratio that is not 0. buffers: ratio, training mode, result[1]. */
TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    PUT2(0, GET1(0) != 0 && GET0(0) != 0);
}
