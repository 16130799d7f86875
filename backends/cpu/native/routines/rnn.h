#define GATES 1
#include "vec_libm.h"
#include "recurrent.h"
