/* Sizes and addresses for one set of input dimensions: computed once, remembered for the latest LAYOUT_LIMIT shapes.
 *
 * Temporaries of a space share one arena. One after another, each takes the smallest gap that fits between the buffers already
 * placed that live at the same time (greedy, best fit: Pisarchyk and Lee, arXiv:2001.03288). Of several orders the first
 * that gives the smallest arena counts; places never depend on anything but the sizes. `tilewright.plan.memory` is the
 * same algorithm. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

typedef struct {
    int64_t size, offset, key;
    uint32_t buffer, first, last;
} Slot;

static int by_key(const void *left, const void *right) {
    const Slot *a = left, *b = right;
    if (a->key != b->key) return a->key < b->key ? 1 : -1;
    if (a->size != b->size) return a->size < b->size ? 1 : -1;
    return a->buffer < b->buffer ? -1 : 1;
}

/* Where `slot` goes among the `count` placed ones, which are in ascending order of offset. */
static int64_t best_fit(const Slot *placed, uint32_t count, const Slot *slot) {
    int64_t best = -1, best_gap = INT64_MAX, end = 0;
    for (uint32_t i = 0; i < count; i++) {
        const Slot *p = &placed[i];
        if (p->last < slot->first || slot->last < p->first) continue;
        int64_t gap = p->offset - end;
        if (gap >= slot->size && gap < best_gap) {
            best = end;
            best_gap = gap;
        }
        if (p->offset + p->size > end) end = p->offset + p->size;
    }
    return best >= 0 ? best : end;
}

/* Bytes live at each instruction into `live`, which is all 0; returns the most. */
static int64_t count_live(const Slot *slots, uint32_t count, uint32_t code_count, int64_t *live) {
    int64_t most = 0;
    for (uint32_t i = 0; i < count; i++) {
        live[slots[i].first] += slots[i].size;
        live[slots[i].last + 1] -= slots[i].size;
    }
    for (uint32_t i = 0; i < code_count; i++) {
        if (i > 0) live[i] += live[i - 1];
        if (live[i] > most) most = live[i];
    }
    return most;
}

enum { BY_SIZE, BY_BREADTH, BY_AREA, BY_LIFE, BY_START, BY_END, ORDERS };

/* What is placed first: the largest key, then the largest size, then the lowest index. */
static int64_t key_of(const Slot *slot, int order, const int64_t *live) {
    int64_t key = 0;
    switch (order) {
    case BY_BREADTH:
        for (uint32_t i = slot->first; i <= slot->last; i++)
            if (live[i] > key) key = live[i];
        return key;
    case BY_AREA: return __builtin_mul_overflow(slot->size, (int64_t)(slot->last - slot->first) + 1, &key) ? INT64_MAX : key;
    case BY_LIFE: return slot->last - slot->first;
    case BY_START: return -(int64_t)slot->first;
    case BY_END: return slot->last;
    default: return 0;
    }
}

/* Places the slots in one order and keeps that when it needs less than the orders before it. */
static void place_slots(Slot *slots, Slot *placed, uint32_t count, int order, const int64_t *live, uint32_t space, Layout *layout) {
    int64_t size = 0;
    for (uint32_t i = 0; i < count; i++) slots[i].key = key_of(&slots[i], order, live);
    qsort(slots, count, sizeof *slots, by_key);
    for (uint32_t i = 0; i < count; i++) {
        Slot slot = slots[i];
        slot.offset = best_fit(placed, i, &slot);
        uint32_t at = i;
        for (; at > 0 && placed[at - 1].offset > slot.offset; at--) placed[at] = placed[at - 1];
        placed[at] = slot;
        if (slot.offset + slot.size > size) size = slot.offset + slot.size;
    }
    if (order != BY_SIZE && size >= layout->arena_bytes[space]) return;
    layout->arena_bytes[space] = size;
    for (uint32_t i = 0; i < count; i++) layout->place[placed[i].buffer] = placed[i].offset;
}

static int32_t place_temporaries(const Entry *e, uint32_t space, Layout *layout, tw_error *error) {
    Slot *slots = calloc((size_t)e->buffer_count * 2 + 1, sizeof *slots);
    int64_t *live = calloc((size_t)e->code_count + 1, sizeof *live);
    uint32_t count = 0;
    int32_t code = TW_OK;
    if (slots == NULL || live == NULL) code = twr_fail(error, TW_RESOURCE, "no memory for the layout");
    int64_t total = 0;
    for (uint32_t i = 0; i < e->buffer_count && code == TW_OK; i++) {
        const Buffer *b = &e->buffers[i];
        if (b->kind != BUFFER_TEMPORARY || b->base != NONE || b->allocated || b->first == NONE || b->space != space) continue;
        int64_t size = layout->value[b->size];
        if (size > INT64_MAX / 2 || __builtin_add_overflow(total, (size + 63) & ~(int64_t)63, &total)) {
            code = twr_fail(error, TW_RESOURCE, "entry '%s': its temporaries need more memory than can be addressed", e->name);
            break;
        }
        slots[count++] = (Slot){(size + TW_ALIGNMENT - 1) & ~(int64_t)(TW_ALIGNMENT - 1), 0, 0, i, b->first, b->last};
    }
    if (code == TW_OK) {
        layout->live_bytes[space] = count_live(slots, count, e->code_count, live);
        for (int order = 0; order < ORDERS; order++) {
            place_slots(slots, slots + count, count, order, live, space, layout);
            if (layout->arena_bytes[space] == layout->live_bytes[space]) break;
        }
    }
    free(slots);
    free(live);
    return code;
}

static int32_t evaluate_sizes(const tw_plan *plan, const Entry *e, Layout *layout, tw_error *error) {
    for (uint32_t i = 0; i < e->expr_count; i++)
        if (!e->exprs[i].dynamic && !twr_evaluate(&e->exprs[i], layout->symbol, &layout->value[i]))
            return twr_fail(error, TW_USAGE, "entry '%s': a size overflows or divides by zero for these shapes", e->name);
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        const Buffer *b = &e->buffers[i];
        if (!e->exprs[b->size].dynamic && layout->value[b->size] < 0)
            return twr_fail(error, TW_ARTIFACT, "entry '%s': buffer %u has a negative size", e->name, i);
        if (b->kind == BUFFER_CONSTANT && b->base == NONE && layout->value[b->size] > plan->constants[b->index].bytes)
            return twr_fail(error, TW_ARTIFACT, "entry '%s': buffer %u is larger than its constant", e->name, i);
    }
    return TW_OK;
}

/* Offsets of views from their roots; a view must lie within its base. */
static int32_t place_views(const Entry *e, Layout *layout, tw_error *error) {
    for (uint32_t i = 0; i < e->buffer_count; i++) {
        const Buffer *b = &e->buffers[i];
        if (b->base == NONE || b->dynamic) continue;
        int64_t offset = layout->value[b->offset], size = layout->value[b->size];
        int64_t room = layout->value[e->buffers[b->base].size];
        if (offset < 0 || offset > room || size > room - offset)
            return twr_fail(error, TW_ARTIFACT, "entry '%s': buffer %u reaches past its base", e->name, i);
        layout->place[i] = offset + (e->buffers[b->base].base == NONE ? 0 : layout->place[b->base]);
    }
    return TW_OK;
}

static int32_t build(const tw_plan *plan, const Entry *e, const int64_t *symbols, Layout **out, tw_error *error) {
    size_t numbers = (size_t)e->symbol_count + e->expr_count + e->buffer_count;
    Layout *layout = calloc(1, sizeof *layout + numbers * sizeof(int64_t));
    if (layout == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the layout");
    layout->symbol = (int64_t *)(layout + 1);
    layout->value = layout->symbol + e->symbol_count;
    layout->place = layout->value + e->expr_count;
    if (e->symbol_count) memcpy(layout->symbol, symbols, e->symbol_count * sizeof *symbols);
    layout->references = 1;
    int32_t code = evaluate_sizes(plan, e, layout, error);
    for (uint32_t space = 0; space < SPACES && code == TW_OK; space++)
        if (space == SPACE_HOST || plan->device != NULL) code = place_temporaries(e, space, layout, error);
    if (code == TW_OK && plan->device != NULL) code = twr_device_sizes(plan, e, layout, error);
    if (code == TW_OK) code = place_views(e, layout, error);
    if (code != TW_OK) {
        free(layout);
        return code;
    }
    *out = layout;
    return TW_OK;
}

static void drop(Layout *layout) {
    if (--layout->references == 0) free(layout);
}

static Layout *find(tw_plan *plan, Entry *e, const int64_t *symbols) {
    for (uint32_t i = 0; i < e->layout_count; i++) {
        Layout *layout = e->layouts[i];
        if (e->symbol_count && memcmp(layout->symbol, symbols, e->symbol_count * sizeof *symbols) != 0) continue;
        layout->references++;
        layout->stamp = ++plan->clock;
        return layout;
    }
    return NULL;
}

static void remember(tw_plan *plan, Entry *e, Layout *layout) {
    uint32_t at = e->layout_count;
    if (at == LAYOUT_LIMIT) {
        at = 0;
        for (uint32_t i = 1; i < LAYOUT_LIMIT; i++)
            if (e->layouts[i]->stamp < e->layouts[at]->stamp) at = i;
        drop(e->layouts[at]);
    } else {
        e->layout_count++;
    }
    layout->references++;
    layout->stamp = ++plan->clock;
    e->layouts[at] = layout;
}

/* The layout for these symbol values, to be given back with twr_release_layout. */
int32_t twr_layout(tw_plan *plan, Entry *e, const int64_t *symbols, Layout **out, tw_error *error) {
    pthread_mutex_lock(&plan->lock);
    *out = find(plan, e, symbols);
    pthread_mutex_unlock(&plan->lock);
    if (*out != NULL) return TW_OK;
    int32_t code = build(plan, e, symbols, out, error);
    if (code != TW_OK) return code;
    pthread_mutex_lock(&plan->lock);
    Layout *other = find(plan, e, symbols); /* another run may have built it meanwhile */
    if (other != NULL) {
        free(*out);
        *out = other;
    } else {
        remember(plan, e, *out);
    }
    pthread_mutex_unlock(&plan->lock);
    return TW_OK;
}

void twr_release_layout(tw_plan *plan, Layout *layout) {
    pthread_mutex_lock(&plan->lock);
    drop(layout);
    pthread_mutex_unlock(&plan->lock);
}
