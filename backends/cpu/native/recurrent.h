/* Recurrent layers: a block is up to four sequences of one direction, whose steps run one after the other. What a file
 * that includes this calls GATES tells the layer: 1 (RNN), 3 (GRU: update, reset, hidden) or 4 (LSTM: input, output,
 * forget, cell).
 *
 * buffers: X·Wᵀ [row, direction, gate, hidden], a row being a step of a sequence; Rᵀ [direction, gate, panel, hidden
 * before, 16], the weights of 16 hidden values; biases [direction, 2, gate, hidden]; lengths [sequence]; the first
 * hidden state and cell state [direction, sequence, hidden]; peepholes [direction, 3, hidden]; then all hidden states,
 * the last hidden state and the last cell state.
 * dims: steps, sequences, hidden, directions, whether sequences come first, backwards (1) or both ways (2), a bit for
 * each buffer from the biases on that is there, a variant (GRU: the reset gate comes after the product; LSTM: the
 * forget gate is one less the input gate), the clip threshold; for each direction three times an activation, alpha,
 * beta. grid: directions * ceil(sequences / 4); scratch: (5 * GATES + 16) * hidden numbers, hidden rounded up to 16.
 */
#ifndef TW_RECURRENT_H
#define TW_RECURRENT_H
#include "vec_libm.h"

#define PANEL 16
#define ROWS 4
#define VECTORS (PANEL / TW_LANES)
#define HAS(n) (DIM(6) >> ((n) - 2) & 1)

typedef V0 number;
typedef __typeof__(_Generic((number)0, float: (f32v){0}, double: (f64v){0})) vec;
#define OF_TYPE(name) _Generic((number)0, float: name##_f32, double: name##_f64)
#define LOAD(p) OF_TYPE(load)(p)
#define STORE(p, x) OF_TYPE(store)((p), (x))
#define SELECT(c, a, b) OF_TYPE(select)(to(i32, c), (a), (b))
#define FOR_VECTORS(j, n) for (int64_t j = 0; j < (n); j += TW_LANES)

enum { RELU, TANH, SIGMOID, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS };

typedef struct {
    int64_t kind;
    number alpha, beta, clip;
} activation;

static activation activation_of(const tw_args *args, int64_t direction, int64_t which) {
    int64_t at = 9 + 9 * direction + 3 * which;
    return (activation){DIM(at), (number)tw_float_of(DIM(at + 1)), (number)tw_float_of(DIM(at + 2)),
                        (number)tw_float_of(DIM(8))};
}

/* y = f(x), x within the clip threshold. */
__attribute__((noinline)) static void activate(activation f, const number *x, number *y, int64_t n) {
    const vec zero = OF_TYPE(set)(0), one = OF_TYPE(set)(1), limit = OF_TYPE(set)(f.clip);
#define EACH(result)                                                                                                 \
    FOR_VECTORS(j, n) {                                                                                              \
        const vec v = OF_TYPE(at_most)(limit, OF_TYPE(at_least)(-limit, LOAD(x + j)));                               \
        STORE(y + j, (result));                                                                                      \
    }                                                                                                                \
    return;
    switch (f.kind) {
    case RELU: EACH(SELECT(v < 0, zero, v))
    case TANH: EACH(OF_TYPE(tanh)(v))
    case SIGMOID: EACH(OF_TYPE(sigmoid)(v))
    case AFFINE: EACH(v * f.alpha + f.beta)
    case LEAKY_RELU: EACH(SELECT(v < 0, v * f.alpha, v))
    case THRESHOLDED_RELU: EACH(SELECT(v < f.alpha, zero, v))
    case SCALED_TANH: EACH(OF_TYPE(tanh)(v * f.beta) * f.alpha)
    case HARD_SIGMOID: EACH(OF_TYPE(at_least)(zero, OF_TYPE(at_most)(one, v * f.alpha + f.beta)))
    case ELU: EACH(SELECT(v < 0, (OF_TYPE(exp)(v) - 1) * f.alpha, v))
    case SOFTSIGN: EACH(v / (OF_TYPE(abs)(v) + 1))
    case SOFTPLUS: EACH(SELECT(v < 0, zero, v) + OF_TYPE(log)(OF_TYPE(exp)(-OF_TYPE(abs)(v)) + 1))
    }
#undef EACH
}

/* Adds to `panels` panels of `rows` rows of y what the state h (`hidden` numbers a row) makes of the weights w. */
TW_INLINE void multiply(int rows, int panels, int64_t hidden, const number *h, int64_t h_row, const number *w,
                        number *y, int64_t y_row) {
    vec sum[ROWS][4 * VECTORS];
    TW_UNROLL TW_FOR(r, rows) TW_UNROLL TW_FOR(v, panels * VECTORS) sum[r][v] = LOAD(y + r * y_row + v * TW_LANES);
    for (int64_t k = 0; k < hidden; k++) {
        TW_UNROLL TW_FOR(p, panels) TW_UNROLL TW_FOR(v, VECTORS) {
            const vec weights = LOAD(w + (p * hidden + k) * PANEL + v * TW_LANES);
            TW_UNROLL TW_FOR(r, rows) sum[r][p * VECTORS + v] += h[r * h_row + k] * weights;
        }
    }
    TW_UNROLL TW_FOR(r, rows) TW_UNROLL TW_FOR(v, panels * VECTORS) STORE(y + r * y_row + v * TW_LANES, sum[r][v]);
}

/* The same for any number of panels and up to four rows. */
static void product(int64_t rows, int64_t panels, int64_t hidden, const number *h, int64_t h_row, const number *w,
                    number *y, int64_t y_row) {
#define PANELS(r, p)                                                                                                 \
    for (; panels >= (p); panels -= (p), w += (p) * hidden * PANEL, y += (p) * PANEL)                                \
        multiply(r, p, hidden, h, h_row, w, y, y_row)
    switch (rows) {
    case 1: PANELS(1, 4); PANELS(1, 1); break;
    case 2: PANELS(2, 2); PANELS(2, 1); break;
    case 3: PANELS(3, 1); break;
    default: PANELS(4, 1); break;
    }
#undef PANELS
}

/* What a block works with; rows of `wide` numbers. */
typedef struct {
    int64_t hidden, wide;
    number *bias, *late, *peephole, *h, *c, *gates, *other;
    activation f, g, k;
} layer;

/* From the gates of a row before their activation to its next hidden state (and cell state). */
TW_INLINE void step_row(const tw_args *args, const layer *l, int64_t row) {
    int64_t wide = l->wide;
    number *gate = l->gates + row * GATES * wide, *h = l->h + row * wide, *c = l->c + row * wide;
    (void)c;
#if GATES == 1
    activate(l->f, gate, h, wide);
#elif GATES == 3
    /* The update and the reset gate are through their activation already. */
    activate(l->g, gate + 2 * wide, gate + 2 * wide, wide);
    FOR_VECTORS(j, wide) {
        const vec update = LOAD(gate + j), new = LOAD(gate + 2 * wide + j);
        STORE(h + j, (1 - update) * new + update * LOAD(h + j));
    }
#else
    number *input = gate, *output = gate + wide, *forget = gate + 2 * wide, *cell = gate + 3 * wide;
    if (HAS(6)) {
        FOR_VECTORS(j, wide) STORE(input + j, LOAD(input + j) + LOAD(l->peephole + j) * LOAD(c + j));
        FOR_VECTORS(j, wide) STORE(forget + j, LOAD(forget + j) + LOAD(l->peephole + 2 * wide + j) * LOAD(c + j));
    }
    activate(l->f, input, input, wide);
    if (DIM(7)) FOR_VECTORS(j, wide) STORE(forget + j, 1 - LOAD(input + j));
    else activate(l->f, forget, forget, wide);
    activate(l->g, cell, cell, wide);
    FOR_VECTORS(j, wide) STORE(c + j, LOAD(forget + j) * LOAD(c + j) + LOAD(input + j) * LOAD(cell + j));
    if (HAS(6)) FOR_VECTORS(j, wide) STORE(output + j, LOAD(output + j) + LOAD(l->peephole + wide + j) * LOAD(c + j));
    activate(l->f, output, output, wide);
    activate(l->k, c, h, wide);
    FOR_VECTORS(j, wide) STORE(h + j, LOAD(h + j) * LOAD(output + j));
#endif
}

/* Biases and peepholes of a direction, and what follows from them. */
static void prepare(const tw_args *args, layer *l, int64_t direction) {
    int64_t hidden = l->hidden, bias = direction * 2 * GATES * hidden;
    for (int64_t i = 0; i < (GATES + 4) * l->wide; i++) l->bias[i] = 0;
    for (int64_t g = 0; g < GATES && HAS(2); g++) {
        /* The hidden gate of a GRU whose reset gate comes late adds the second bias before it, the first one after. */
        int apart = GATES == 3 && g == 2 && DIM(7);
        for (int64_t j = 0; j < hidden; j++) {
            number first = GET2(bias + g * hidden + j), second = GET2(bias + (GATES + g) * hidden + j);
            l->bias[g * l->wide + j] = apart ? second : first + second;
            if (apart) l->late[j] = first;
        }
    }
    for (int64_t i = 0; i < 3 && HAS(6); i++)
        for (int64_t j = 0; j < hidden; j++) l->peephole[i * l->wide + j] = GET6((direction * 3 + i) * hidden + j);
    l->f = activation_of(args, direction, 0);
    l->g = activation_of(args, direction, 1);
    l->k = activation_of(args, direction, 2);
    l->k.clip = (number)__builtin_inf(); /* the threshold is for gates; ONNX Runtime takes the standard so too */
}

/* The gates of `rows` rows before their activation, of which `gate` are complete with the product. */
TW_INLINE void multiply_gates(const tw_args *args, const layer *l, int64_t rows, const number *weights) {
    int64_t wide = l->wide, panels = wide / PANEL, y_row = GATES * wide;
#if GATES == 3
    int64_t first = DIM(7) ? 3 : 2;
    product(rows, first * panels, l->hidden, l->h, wide, weights, l->gates, y_row);
    for (int64_t r = 0; r < rows; r++) {
        number *gate = l->gates + r * y_row, *reset = gate + wide, *hidden = gate + 2 * wide;
        number *other = l->other + r * wide;
        activate(l->f, gate, gate, 2 * wide);
        if (DIM(7)) FOR_VECTORS(j, wide) STORE(hidden + j, LOAD(hidden + j) * LOAD(reset + j) + LOAD(other + j));
        else FOR_VECTORS(j, wide) STORE(other + j, LOAD(reset + j) * LOAD(l->h + r * wide + j));
    }
    weights += 2 * wide * l->hidden;
    if (!DIM(7)) product(rows, panels, l->hidden, l->other, wide, weights, l->gates + 2 * wide, y_row);
#else
    product(rows, GATES * panels, l->hidden, l->h, wide, weights, l->gates, y_row);
#endif
}

TW_DEFINE(ROUTINE) {
    int64_t steps = DIM(0), sequences = DIM(1), hidden = DIM(2), directions = DIM(3), layout = DIM(4);
    int64_t blocks = (sequences + ROWS - 1) / ROWS, wide = (hidden + PANEL - 1) / PANEL * PANEL;
    number *scratch = args->scratch;
    layer l = {.hidden = hidden, .wide = wide, .bias = scratch};
    l.late = l.bias + GATES * wide;
    l.peephole = l.late + wide;
    l.h = l.peephole + 3 * wide;
    l.c = l.h + ROWS * wide;
    l.other = l.c + ROWS * wide;
    l.gates = l.other + ROWS * wide;
    for (int64_t block = begin; block < end; block++) {
        int64_t d = block / blocks, start = block % blocks * ROWS, rows = min_int(ROWS, sequences - start), most = 0;
        int64_t length[ROWS], state[ROWS], backwards = DIM(5) == 1 || d == 1;
        prepare(args, &l, d);
        for (int64_t i = 0; i < 2 * ROWS * wide; i++) l.h[i] = 0;
        for (int64_t r = 0; r < rows; r++) {
            int64_t b = start + r;
            length[r] = HAS(3) ? (int64_t)GET3(b) : steps;
            if (length[r] < 0 || length[r] > steps) {
                REFUSE();
                length[r] = 0;
            }
            most = max_int(most, length[r]);
            state[r] = (layout ? b * directions + d : d * sequences + b) * hidden;
            for (int64_t j = 0; j < hidden && HAS(4); j++) l.h[r * wide + j] = GET4(state[r] + j);
            for (int64_t j = 0; j < hidden && HAS(5); j++) l.c[r * wide + j] = GET5(state[r] + j);
        }
        for (int64_t step = 0; step < most; step++) {
            int64_t at[ROWS];
            for (int64_t r = 0; r < rows; r++) {
                /* A sequence that has ended computes on, unseen. */
                int64_t now = min_int(step, max_int(length[r] - 1, 0));
                at[r] = backwards ? max_int(length[r] - 1, 0) - now : now;
                int64_t row = layout ? (start + r) * steps + at[r] : at[r] * sequences + start + r;
                for (int64_t g = 0; g < GATES; g++) {
                    number *gate = l.gates + (r * GATES + g) * wide;
                    int apart = GATES == 3 && g == 2 && DIM(7);
                    int64_t x = ((row * directions + d) * GATES + g) * hidden;
                    if (apart) {
                        FOR_VECTORS(j, wide) STORE(gate + j, LOAD(l.bias + g * wide + j));
                        for (int64_t j = 0; j < hidden; j++) l.other[r * wide + j] = GET0(x + j) + l.late[j];
                    } else {
                        for (int64_t j = 0; j < hidden; j++) gate[j] = GET0(x + j) + l.bias[g * wide + j];
                        for (int64_t j = hidden; j < wide; j++) gate[j] = 0;
                    }
                }
            }
            multiply_gates(args, &l, rows, (const number *)BUFFER(1) + d * GATES * wide * hidden);
            for (int64_t r = 0; r < rows; r++) {
                if (step >= length[r]) continue;
                step_row(args, &l, r);
                int64_t y = (layout ? ((start + r) * steps + at[r]) * directions + d
                                    : (at[r] * directions + d) * sequences + start + r) * hidden;
                for (int64_t j = 0; j < hidden && HAS(7); j++) PUT7(y + j, l.h[r * wide + j]);
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t t = length[r]; t < steps && HAS(7); t++) {
                int64_t y = (layout ? ((start + r) * steps + t) * directions + d
                                    : (t * directions + d) * sequences + start + r) * hidden;
                for (int64_t j = 0; j < hidden; j++) PUT7(y + j, 0);
            }
            for (int64_t j = 0; j < hidden && HAS(8); j++) PUT8(state[r] + j, l.h[r * wide + j]);
            for (int64_t j = 0; j < hidden && HAS(9); j++) PUT9(state[r] + j, l.c[r * wide + j]);
        }
    }
}
#endif
