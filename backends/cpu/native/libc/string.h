/* What kernels use of <string.h>, for a compiler that is started without the headers of a C library. */
#ifndef TW_STRING_H
#define TW_STRING_H
#include <stddef.h>

void *memcpy(void *__restrict__ to, const void *__restrict__ from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

#endif
