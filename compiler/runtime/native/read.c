/* Reads plan words into structures. Every length is checked here, every index in verify.c; hostile bytes only fail. */
#include <stdlib.h>
#include <string.h>

#include "executor.h"

typedef struct {
    tw_plan *plan;
    const uint32_t *at, *end;
    const char *strings;
    uint32_t string_bytes;
    bool on_device, bad;
} Reader;

static uint32_t word(Reader *r) {
    if (r->at < r->end) return *r->at++;
    r->bad = true;
    return 0;
}

static int64_t wide(Reader *r) {
    uint64_t low = word(r);
    return (int64_t)(low | (uint64_t)word(r) << 32);
}

/* A count of things of at least `each` words: never more than what is left can hold. */
static uint32_t count_of(Reader *r, uint32_t each) {
    uint32_t n = word(r);
    if ((uint64_t)n * each <= (uint64_t)(r->end - r->at)) return n;
    r->bad = true;
    return 0;
}

static const uint32_t *span(Reader *r, uint32_t words) {
    const uint32_t *start = r->at;
    if (words > (uint64_t)(r->end - r->at)) {
        r->bad = true;
        return start;
    }
    r->at += words;
    return start;
}

static const char *string(Reader *r) {
    uint32_t at = word(r);
    if (at < r->string_bytes) return r->strings + at; /* the last byte of the strings is 0 */
    r->bad = true;
    return "";
}

/* Zeroed memory that lives as long as the plan; NULL when there is none. */
void *twr_own(tw_plan *plan, size_t count, size_t size) {
    if (plan->owned_count == plan->owned_capacity) {
        size_t capacity = plan->owned_capacity ? plan->owned_capacity * 2 : 64;
        void **grown = realloc(plan->owned, capacity * sizeof *grown);
        if (grown == NULL) return NULL;
        plan->owned = grown;
        plan->owned_capacity = capacity;
    }
    void *block = calloc(count ? count : 1, size);
    if (block != NULL) plan->owned[plan->owned_count++] = block;
    return block;
}

#define OWN(reader, array, count) \
    (((array) = twr_own((reader)->plan, (count), sizeof *(array))) == NULL ? ((reader)->bad = true) : false)

static void read_signatures(Reader *r, Signature **out, uint32_t *count) {
    uint32_t n = count_of(r, 4);
    Signature *s;
    if (OWN(r, s, n)) return;
    *out = s;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        s[i].text.name = string(r);
        s[i].text.shape = string(r);
        s[i].text.dtype = (int32_t)word(r);
        uint32_t rank = word(r);
        if (rank > TW_MAX_RANK) r->bad = true;
        for (uint32_t d = 0; d < rank && !r->bad; d++) s[i].dim[d] = word(r);
        s[i].text.rank = (int32_t)rank;
    }
    *count = n;
}

static void read_symbols(Reader *r, Entry *e) {
    uint32_t n = count_of(r, 7);
    Symbol *symbols;
    if (OWN(r, symbols, n)) return;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].name = string(r);
        symbols[i].lo = wide(r);
        symbols[i].hi = wide(r);
        symbols[i].divisor = wide(r);
    }
    e->symbols = symbols;
    e->symbol_count = n;
    e->local_count = count_of(r, 1);
    span(r, e->local_count); /* their names: for printing */
}

static void read_exprs(Reader *r, Entry *e) {
    uint32_t n = count_of(r, 2);
    Expr *exprs;
    if (OWN(r, exprs, n)) return;
    for (uint32_t i = 0; i < n; i++) {
        exprs[i].count = word(r);
        exprs[i].code = span(r, exprs[i].count);
    }
    e->exprs = exprs;
    e->expr_count = n;
}

static void read_buffers(Reader *r, Entry *e) {
    uint32_t n = count_of(r, 7);
    Buffer *b;
    if (OWN(r, b, n)) return;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t kind = word(r);
        b[i].kind = kind & 255;
        b[i].space = r->on_device ? kind >> 8 : SPACE_HOST;
        if (kind >> 8 > (r->on_device ? SPACE_HOST : 0u)) r->bad = true;
        b[i].index = word(r);
        b[i].size = word(r);
        b[i].base = word(r);
        b[i].offset = word(r);
        b[i].first = word(r);
        b[i].last = word(r);
    }
    e->buffers = b;
    e->buffer_count = n;
}

/* An instruction is a word with its operation (low byte) and the number of its operand words. */
static void read_code(Reader *r, Entry *e) {
    uint32_t n = count_of(r, 1);
    Instruction *code;
    if (OWN(r, code, n)) return;
    for (uint32_t i = 0; i < n; i++) {
        static const uint32_t fixed[OP_COUNT] = {5, 3, 4, 4, 1, 1, 2, 2, 4, 0, 5};
        uint32_t head = word(r), op = head & 255, length = head >> 8;
        const uint32_t *arg = span(r, length);
        if (r->bad || op >= OP_COUNT || length < fixed[op]) {
            r->bad = true;
            return;
        }
        bool launches = op == OP_LAUNCH || op == OP_HOST_LAUNCH;
        uint64_t lists = launches ? (uint64_t)arg[3] + arg[4] : op == OP_CALL ? (uint64_t)arg[1] + arg[2] + arg[3] : 0;
        if (length - fixed[op] != lists) r->bad = true;
        if (lists > e->argument_limit) e->argument_limit = (uint32_t)lists;
        code[i] = (Instruction){op, arg};
    }
    e->code = code;
    e->code_count = n;
}

static void read_entry(Reader *r, Entry *e) {
    e->name = string(r);
    read_symbols(r, e);
    read_exprs(r, e);
    read_signatures(r, &e->inputs, &e->input_count);
    read_signatures(r, &e->outputs, &e->output_count);
    e->state_count = count_of(r, 2);
    e->states = (uint32_t *)(uintptr_t)span(r, e->state_count * 2);
    read_buffers(r, e);
    read_code(r, e);
}

static void read_constants(Reader *r, tw_plan *plan) {
    uint32_t n = count_of(r, 4);
    Constant *constants;
    if (OWN(r, constants, n)) return;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        int64_t dim[TW_MAX_RANK];
        constants[i].name = string(r);
        int32_t dtype = (int32_t)word(r);
        uint32_t rank = word(r);
        if (rank > TW_MAX_RANK) r->bad = true;
        for (uint32_t d = 0; d < rank && !r->bad; d++) dim[d] = wide(r);
        if (r->bad || twr_element_bits(dtype) == 0 || !twr_tensor_bytes(dtype, dim, (int32_t)rank, &constants[i].bytes))
            r->bad = true;
    }
    plan->constants = constants;
    plan->constant_count = n;
}

static void read_names(Reader *r, const char ***names, uint32_t *count) {
    uint32_t n = count_of(r, 1);
    if (OWN(r, *names, n)) return;
    for (uint32_t i = 0; i < n; i++) (*names)[i] = string(r);
    *count = n;
}

static void read_body(Reader *r, tw_plan *plan) {
    read_names(r, &plan->kernel_names, &plan->kernel_count);
    read_names(r, &plan->host_names, &plan->host_count);
    if (r->bad) return;
    read_constants(r, plan);
    uint32_t entries = count_of(r, 10);
    if (OWN(r, plan->entries, entries)) return;
    plan->entry_count = entries;
    for (uint32_t i = 0; i < entries && !r->bad; i++) read_entry(r, &plan->entries[i]);
    if (r->at != r->end) r->bad = true;
}

/* Fills `plan` from the bytes of a plan member: magic, version, words, bytes of strings, words …, strings …. */
int32_t twr_read(tw_plan *plan, const void *data, uint64_t bytes, uint32_t kernels_present, uint32_t host_present,
                 bool on_device, tw_error *error) {
    uint32_t head[4];
    if (bytes < sizeof head || bytes > UINT32_MAX) return twr_fail(error, TW_ARTIFACT, "the plan is truncated");
    memcpy(head, data, sizeof head);
    if (head[0] != PLAN_MAGIC) return twr_fail(error, TW_ARTIFACT, "not a plan: its first bytes are wrong");
    if (head[1] != PLAN_VERSION)
        return twr_fail(error, TW_ARTIFACT, "the plan has version %u, this runtime reads %u", head[1], PLAN_VERSION);
    if (sizeof head + (uint64_t)head[2] * 4 + head[3] != bytes || head[3] == 0)
        return twr_fail(error, TW_ARTIFACT, "the plan is truncated or damaged");
    plan->words = twr_own(plan, head[2], 4);
    plan->strings = twr_own(plan, head[3], 1);
    plan->string_bytes = head[3];
    if (plan->words == NULL || plan->strings == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the plan");
    memcpy(plan->words, (const char *)data + sizeof head, (size_t)head[2] * 4);
    memcpy(plan->strings, (const char *)data + sizeof head + (size_t)head[2] * 4, head[3]);
    if (plan->strings[head[3] - 1] != 0) return twr_fail(error, TW_ARTIFACT, "the plan is damaged: its strings do not end");
    Reader r = {plan, plan->words, plan->words + head[2], plan->strings, head[3], on_device, false};
    read_body(&r, plan);
    if (r.bad) return twr_fail(error, TW_ARTIFACT, "the plan is damaged at word %u", (uint32_t)(r.at - plan->words));
    if (plan->kernel_count != kernels_present)
        return twr_fail(error, TW_ARTIFACT, "the plan names %u kernels, its binary holds %u", plan->kernel_count, kernels_present);
    if (plan->host_count != host_present)
        return twr_fail(error, TW_ARTIFACT, "the plan names %u kernels of the host, its binary holds %u", plan->host_count, host_present);
    return twr_verify_plan(plan, error);
}
