/* Binds dimension symbols to the shapes of inputs, with errors that name what was expected. */
#include <inttypes.h>
#include <stdio.h>

#include "executor.h"

static const char *shape_text(const int64_t *dim, int32_t rank, char *text, size_t capacity) {
    size_t at = (size_t)snprintf(text, capacity, "[");
    for (int32_t i = 0; i < rank && at < capacity; i++)
        at += (size_t)snprintf(text + at, capacity - at, i ? ", %" PRId64 : "%" PRId64, dim[i]);
    if (at < capacity) snprintf(text + at, capacity - at, "]");
    return text;
}

static const char *dtype_text(int32_t dtype) {
    static const char *const names[] = {"?",   "f32",  "u8",  "i8",  "u16", "i16", "i32",  "i64", "string", "bool",   "f16", "f64",
                                        "u32", "u64", "?",   "?",   "bf16", "f8e4m3", "?", "f8e5m2", "?",   "u4",  "i4"};
    return dtype >= 0 && dtype < (int32_t)(sizeof names / sizeof *names) ? names[dtype] : "?";
}

static int32_t check_type(const Signature *s, const tw_tensor *t, tw_error *error) {
    char text[400];
    if (t->dtype != s->text.dtype)
        return twr_fail(error, TW_USAGE, "input '%s' is %s, the model takes %s%s", s->text.name, dtype_text(t->dtype),
                        dtype_text(s->text.dtype), s->text.shape);
    if (t->rank != s->text.rank) {
        if (t->rank < 0 || t->rank > TW_MAX_RANK)
            return twr_fail(error, TW_USAGE, "input '%s' has rank %d, the model takes %s", s->text.name, t->rank, s->text.shape);
        return twr_fail(error, TW_USAGE, "input '%s' has shape %s, the model takes %s (rank %d)", s->text.name,
                        shape_text(t->dim, t->rank, text, sizeof text), s->text.shape, s->text.rank);
    }
    for (int32_t d = 0; d < t->rank; d++)
        if (t->dim[d] < 0) return twr_fail(error, TW_USAGE, "input '%s' has a negative dimension", s->text.name);
    return TW_OK;
}

int32_t twr_check_symbols(const Entry *e, const int64_t *symbols, tw_error *error) {
    for (uint32_t i = 0; i < e->symbol_count; i++) {
        const Symbol *s = &e->symbols[i];
        if (symbols[i] < s->lo)
            return twr_fail(error, TW_USAGE, "dimension %s is %" PRId64 ", the least allowed is %" PRId64, s->name, symbols[i], s->lo);
        if (symbols[i] > s->hi)
            return twr_fail(error, TW_USAGE, "dimension %s is %" PRId64 ", the most allowed is %" PRId64, s->name, symbols[i], s->hi);
        if (symbols[i] % s->divisor != 0)
            return twr_fail(error, TW_USAGE, "dimension %s is %" PRId64 ", not a multiple of %" PRId64, s->name, symbols[i], s->divisor);
    }
    return TW_OK;
}

/* Values of the entry's symbols from its inputs, every dimension checked. */
int32_t twr_bind(const Entry *e, const tw_tensor *inputs, uint32_t count, int64_t *symbols, tw_error *error) {
    if (count != e->input_count)
        return twr_fail(error, TW_USAGE, "entry '%s' takes %u inputs, got %u", e->name, e->input_count, count);
    for (uint32_t i = 0; i < count; i++) {
        int32_t code = check_type(&e->inputs[i], &inputs[i], error);
        if (code != TW_OK) return code;
    }
    for (uint32_t i = 0; i < e->symbol_count; i++) {
        const Symbol *s = &e->symbols[i];
        if (s->input == NONE)
            return twr_fail(error, TW_USAGE, "entry '%s' is reached by calls only: no input gives %s", e->name, s->name);
        symbols[i] = inputs[s->input].dim[s->dim];
    }
    for (uint32_t i = 0; i < count; i++) {
        const Signature *s = &e->inputs[i];
        for (int32_t d = 0; d < s->text.rank; d++) {
            int64_t want;
            char text[400];
            if (twr_evaluate(&e->exprs[s->dim[d]], symbols, &want) && want == inputs[i].dim[d]) continue;
            return twr_fail(error, TW_USAGE, "input '%s' has shape %s, the model takes %s: dimension %d does not fit", s->text.name,
                            shape_text(inputs[i].dim, s->text.rank, text, sizeof text), s->text.shape, d);
        }
    }
    return twr_check_symbols(e, symbols, error);
}
