/* Error texts. */
#include <stdarg.h>
#include <stdio.h>

#include "executor.h"

/* Fills `error` (which may be NULL) and returns `code`. */
int32_t twr_fail(tw_error *error, int32_t code, const char *format, ...) {
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return code;
}
