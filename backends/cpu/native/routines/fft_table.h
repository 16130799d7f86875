/* buffers: table; dims: length. scratch: 4 numbers for each element that is transformed. */
#include "libm.h"

#include "fft.h"

TW_DEFINE(ROUTINE) {
    (void)begin, (void)end;
    tw_fft_table(DIM(0), BUFFER(0), args->scratch);
}
