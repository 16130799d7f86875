#define GATES 3
#include "vec_libm.h"
#include "recurrent.h"
