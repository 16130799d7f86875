/* Checks an entry point's indices once, when the plan is loaded, so that running it needs no such checks, and finds out
 * what depends on values that are known only while it runs. */
#include "executor.h"

#define REFUSE(...) return twr_fail(error, TW_ARTIFACT, __VA_ARGS__)

static bool writable(const Entry *e, uint32_t buffer) {
    uint32_t kind = e->buffers[e->buffers[buffer].root].kind;
    return kind != BUFFER_INPUT && kind != BUFFER_CONSTANT;
}

static bool check_exprs(Entry *e) {
    for (uint32_t i = 0; i < e->expr_count; i++) {
        Expr *x = &e->exprs[i];
        if (!twr_expr_valid(x->code, x->count, e->symbol_count + e->local_count)) return false;
        for (uint32_t w = 0; w < x->count;) {
            uint32_t op = x->code[w++];
            if (op == EXPR_SYMBOL && x->code[w] >= e->symbol_count) x->dynamic = true;
            w += op == EXPR_CONST ? 2 : op == EXPR_SYMBOL ? 1 : 0;
        }
    }
    return true;
}

static bool check_signatures(const Entry *e, Signature *s, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (twr_element_bits(s[i].text.dtype) == 0) return false;
        for (int32_t d = 0; d < s[i].text.rank; d++) {
            if (s[i].dim[d] >= e->expr_count) return false;
            s[i].dynamic |= e->exprs[s[i].dim[d]].dynamic;
        }
    }
    return true;
}

/* A symbol takes its value from the first input dimension that is the symbol alone. */
static bool bind_symbols(Entry *e) {
    for (uint32_t s = 0; s < e->symbol_count; s++) {
        if (e->symbols[s].divisor < 1 || e->symbols[s].lo > e->symbols[s].hi) return false;
        e->symbols[s].input = NONE;
    }
    for (uint32_t i = 0; i < e->input_count; i++)
        for (int32_t d = 0; d < e->inputs[i].text.rank; d++) {
            const Expr *x = &e->exprs[e->inputs[i].dim[d]];
            if (x->count != 2 || x->code[0] != EXPR_SYMBOL || x->dynamic) continue;
            Symbol *symbol = &e->symbols[x->code[1]];
            if (symbol->input != NONE) continue;
            symbol->input = i;
            symbol->dim = (uint32_t)d;
        }
    return true;
}

static bool is_state(const Entry *e, uint32_t side, uint32_t index) {
    for (uint32_t i = 0; i < e->state_count; i++)
        if (e->states[2 * i + side] == index) return true;
    return false;
}

static bool check_states(const Entry *e) {
    for (uint32_t i = 0; i < e->state_count; i++) {
        uint32_t in = e->states[2 * i], out = e->states[2 * i + 1];
        if (in >= e->input_count || out >= e->output_count || e->outputs[out].dynamic) return false;
        if (e->inputs[in].text.dtype != e->outputs[out].text.dtype || e->inputs[in].text.rank != e->outputs[out].text.rank)
            return false;
        for (uint32_t j = 0; j < i; j++)
            if (e->states[2 * j] == in || e->states[2 * j + 1] == out) return false;
    }
    return true;
}

static bool check_root(const tw_plan *plan, const Entry *e, const Buffer *b) {
    switch (b->kind) {
    case BUFFER_INPUT: return b->index < e->input_count && !is_state(e, 0, b->index) && !e->exprs[b->size].dynamic;
    case BUFFER_OUTPUT: return b->index < e->output_count && !is_state(e, 1, b->index);
    case BUFFER_CONSTANT: return b->index < plan->constant_count && !e->exprs[b->size].dynamic;
    case BUFFER_STATE: return b->index < e->state_count && !e->exprs[b->size].dynamic;
    default: return b->first == NONE || (b->first <= b->last && b->last < e->code_count);
    }
}

static int32_t check_buffers(const tw_plan *plan, Entry *e, tw_error *error) {
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        Buffer *b = &e->buffers[i];
        if (b->kind > BUFFER_STATE || b->size >= e->expr_count || b->offset >= e->expr_count)
            REFUSE("entry '%s': buffer %u is malformed", e->name, i);
        if (b->base != NONE && b->base >= i) REFUSE("entry '%s': buffer %u is a view of a later one", e->name, i);
        b->root = b->base == NONE ? i : e->buffers[b->base].root;
        if (b->base == NONE && !check_root(plan, e, b)) REFUSE("entry '%s': buffer %u names nothing", e->name, i);
        if (b->space != e->buffers[b->root].space) REFUSE("entry '%s': buffer %u lies elsewhere than its base", e->name, i);
    }
    return TW_OK;
}

/* Every input, output and state is wanted in one space, or in none when no buffer names it. */
static bool want(Signature *s, uint32_t space) {
    if (s->space == NONE) s->space = space;
    return s->space == space;
}

static bool find_spaces(const tw_plan *plan, Entry *e) {
    for (uint32_t i = 0; i < e->input_count; i++) e->inputs[i].space = NONE;
    for (uint32_t i = 0; i < e->output_count; i++) e->outputs[i].space = NONE;
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        const Buffer *b = &e->buffers[i];
        if (b->base != NONE) continue;
        if (b->kind == BUFFER_INPUT && !want(&e->inputs[b->index], b->space)) return false;
        if (b->kind == BUFFER_OUTPUT && !want(&e->outputs[b->index], b->space)) return false;
        if (b->kind == BUFFER_STATE && (!want(&e->inputs[e->states[2 * b->index]], b->space) ||
                                        !want(&e->outputs[e->states[2 * b->index + 1]], b->space)))
            return false;
    }
    for (uint32_t i = 0; i < e->state_count; i++) { /* one that nothing names is still copied from input to output */
        Signature *in = &e->inputs[e->states[2 * i]], *out = &e->outputs[e->states[2 * i + 1]];
        uint32_t space = in->space != NONE ? in->space : plan->device != NULL ? SPACE_DEVICE : SPACE_HOST;
        if (!want(in, space) || !want(out, space)) return false;
    }
    return true;
}

static void find_dynamic(Entry *e) {
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        Buffer *b = &e->buffers[i];
        b->dynamic = b->allocated || e->exprs[b->size].dynamic;
        if (b->base != NONE) b->dynamic |= e->exprs[b->offset].dynamic || e->buffers[b->base].dynamic;
        if (b->base == NONE && b->kind == BUFFER_OUTPUT) b->dynamic |= e->outputs[b->index].dynamic;
    }
}

/* Instructions may name buffers that exist and have memory: a temporary is in the arena or allocated somewhere. */
static bool buffers_in_range(const Entry *e, const uint32_t *list, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] >= e->buffer_count) return false;
        const Buffer *root = &e->buffers[e->buffers[list[i]].root];
        if (root->kind == BUFFER_TEMPORARY && root->first == NONE && !root->allocated) return false;
    }
    return true;
}

static bool all_in_space(const Entry *e, const uint32_t *list, uint32_t count, uint32_t space) {
    for (uint32_t i = 0; i < count; i++)
        if (e->buffers[list[i]].space != space) return false;
    return true;
}

static bool exprs_in_range(const Entry *e, const uint32_t *list, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (list[i] >= e->expr_count) return false;
    return true;
}

static bool is_local(const Entry *e, uint32_t symbol) {
    return symbol >= e->symbol_count && symbol - e->symbol_count < e->local_count;
}

static bool check_call(const tw_plan *plan, const Entry *e, const uint32_t *a) {
    if (a[0] >= plan->entry_count || !buffers_in_range(e, a + 4, a[1] + a[2])) return false;
    for (uint32_t i = 0; i < a[2]; i++)
        if (!writable(e, a[4 + a[1] + i])) return false;
    const Entry *callee = &plan->entries[a[0]];
    if (a[1] != callee->input_count || a[2] != callee->output_count) return false;
    for (uint32_t i = 0; i < a[1] + a[2]; i++) {
        uint32_t wanted = i < a[1] ? callee->inputs[i].space : callee->outputs[i - a[1]].space;
        if (wanted != NONE && wanted != e->buffers[a[4 + i]].space) return false;
    }
    return a[1] == callee->input_count && a[2] == callee->output_count && a[3] == callee->symbol_count &&
           exprs_in_range(e, a + 4 + a[1] + a[2], a[3]);
}

static bool check_instruction(const tw_plan *plan, const Entry *e, const Instruction *instruction) {
    const uint32_t *a = instruction->arg;
    switch (instruction->op) {
    case OP_LAUNCH: /* kernel, grid, scratch, buffers, dims, … */
    case OP_HOST_LAUNCH: {
        uint32_t space = instruction->op == OP_LAUNCH && plan->device != NULL ? SPACE_DEVICE : SPACE_HOST;
        return a[0] < (instruction->op == OP_LAUNCH ? plan->kernel_count : plan->host_count) && exprs_in_range(e, a + 1, 2) &&
               buffers_in_range(e, a + 5, a[3]) && exprs_in_range(e, a + 5 + a[3], a[4]) && all_in_space(e, a + 5, a[3], space);
    }
    case OP_COPY: /* source, target, size */
        return buffers_in_range(e, a, 2) && exprs_in_range(e, a + 2, 1) && writable(e, a[1]);
    case OP_LOAD: { /* symbol, buffer, dtype, element */
        bool integer = (a[2] >= 2 && a[2] <= 7) || a[2] == 9 || a[2] == 12 || a[2] == 13;
        return is_local(e, a[0]) && buffers_in_range(e, a + 1, 1) && integer && exprs_in_range(e, a + 3, 1);
    }
    case OP_ASSERT: /* value, lo, hi, message */
        return exprs_in_range(e, a, 3) && a[3] < plan->string_bytes;
    case OP_JUMP: /* to, condition or NONE */
        return a[0] < e->code_count && (a[1] == NONE || exprs_in_range(e, a + 1, 1));
    case OP_SET: /* symbol, value */
        return is_local(e, a[0]) && exprs_in_range(e, a + 1, 1);
    case OP_CALL: /* entry, inputs, outputs, symbols, … */
        return check_call(plan, e, a);
    default:
        return true;
    }
}

/* Buffers that the program allocates and frees itself. */
static bool mark_allocated(Entry *e) {
    for (uint32_t i = 0; i < e->code_count; i++) {
        if (e->code[i].op != OP_ALLOCATE && e->code[i].op != OP_FREE) continue;
        uint32_t buffer = e->code[i].arg[0];
        if (buffer >= e->buffer_count || e->buffers[buffer].kind != BUFFER_TEMPORARY || e->buffers[buffer].base != NONE)
            return false;
        e->buffers[buffer].allocated = true;
    }
    return true;
}

/* Whether a run is nothing but launches and copies on the device, decided by the symbols: what a CUDA graph can hold. */
static bool is_replayable(const Entry *e) {
    for (uint32_t i = 0; i < e->code_count; i++) {
        const uint32_t *a = e->code[i].arg;
        switch (e->code[i].op) {
        case OP_LAUNCH:
        case OP_RETURN: break;
        case OP_COPY:
            if (e->buffers[a[0]].space != SPACE_DEVICE || e->buffers[a[1]].space != SPACE_DEVICE) return false;
            break;
        case OP_ASSERT:
            if (e->exprs[a[0]].dynamic || e->exprs[a[1]].dynamic || e->exprs[a[2]].dynamic) return false;
            break;
        default: return false;
        }
    }
    for (uint32_t i = 0; i < e->buffer_count; i++)
        if (e->buffers[i].dynamic) return false;
    return true;
}

static int32_t verify_entry(tw_plan *plan, Entry *e, tw_error *error) {
    for (uint32_t i = 0; i < e->input_count; i++)
        if (e->inputs[i].dynamic) REFUSE("entry '%s': input '%s' has a size set at run time", e->name, e->inputs[i].text.name);
    if (!bind_symbols(e)) REFUSE("entry '%s': a symbol's bounds are malformed", e->name);
    if (!mark_allocated(e)) REFUSE("entry '%s': an allocation is malformed", e->name);
    for (uint32_t i = 0; i < e->code_count; i++)
        if (!check_instruction(plan, e, &e->code[i])) REFUSE("entry '%s': instruction %u is malformed", e->name, i);
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        const Buffer *b = &e->buffers[i];
        if (b->kind == BUFFER_TEMPORARY && b->base == NONE && !b->allocated && e->exprs[b->size].dynamic)
            REFUSE("entry '%s': buffer %u has a size set at run time but is never allocated", e->name, i);
    }
    find_dynamic(e);
    e->replayable = is_replayable(e);
    return TW_OK;
}

/* Buffers of all entry points come first: calls are checked against those of the callee. */
int32_t twr_verify_plan(tw_plan *plan, tw_error *error) {
    for (uint32_t i = 0; i < plan->entry_count; i++) {
        Entry *e = &plan->entries[i];
        if (!check_exprs(e)) REFUSE("entry '%s': a size expression is malformed", e->name);
        if (!check_signatures(e, e->inputs, e->input_count) || !check_signatures(e, e->outputs, e->output_count))
            REFUSE("entry '%s': a signature is malformed", e->name);
        if (!check_states(e)) REFUSE("entry '%s': a state is malformed", e->name);
        int32_t code = check_buffers(plan, e, error);
        if (code != TW_OK) return code;
        if (!find_spaces(plan, e)) REFUSE("entry '%s': an input, output or state is wanted in two spaces", e->name);
    }
    for (uint32_t i = 0; i < plan->entry_count; i++) {
        int32_t code = verify_entry(plan, &plan->entries[i], error);
        if (code != TW_OK) return code;
    }
    return TW_OK;
}
