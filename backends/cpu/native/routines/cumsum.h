#define START 0
#define COMBINE(a, b) (V1)((a) + (b))
#include "cumulative.h"
