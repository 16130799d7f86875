#define GATES 4
#include "vec_libm.h"
#include "recurrent.h"
