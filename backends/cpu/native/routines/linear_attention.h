/* A recurrence whose state is a matrix for each head: it decays, takes in keys times values (with `beta`, the part of a
 * value that its key does not give yet), and is read by queries. A block is 32 columns of the state of one head.
 *
 * buffers: queries [batch, steps, heads, group, dk], keys [batch, steps, heads, dk], values [batch, steps, heads, dv],
 * first state [batch, heads, dk, dv], decay [batch, steps, heads, 1 or dk], beta [batch, steps, 1 or heads], results
 * [batch, steps, heads, group, dv], last state; dims: steps, heads, group, dk, dv, there is a first state, numbers of
 * decay a head (0: none), numbers of beta a step (0: none), scale. grid: batch * heads * ceil(dv / 32); scratch:
 * 4 * 33 * dk bytes.
 */
#include "libm.h"

#define COLUMNS 32

TW_DEFINE(ROUTINE) {
    int64_t steps = DIM(0), heads = DIM(1), group = DIM(2), dk = DIM(3), dv = DIM(4), decays = DIM(6), betas = DIM(7);
    int64_t pieces = (dv + COLUMNS - 1) / COLUMNS;
    float scale = (float)tw_float_of(DIM(8)), *state = args->scratch, *decay = state + COLUMNS * dk;
    for (int64_t block = begin; block < end; block++) {
        int64_t batch = block / pieces / heads, head = block / pieces % heads, first = block % pieces * COLUMNS;
        int64_t width = min_int(COLUMNS, dv - first), matrix = (batch * heads + head) * dk * dv + first;
        for (int64_t k = 0; k < dk; k++)
            for (int64_t c = 0; c < COLUMNS; c++)
                state[k * COLUMNS + c] = DIM(5) && c < width ? (float)GET3(matrix + k * dv + c) : 0.0f;
        for (int64_t t = 0; t < steps; t++) {
            int64_t row = (batch * steps + t) * heads + head, key = row * dk;
            float value[COLUMNS] = {0}, known[COLUMNS] = {0};
            for (int64_t c = 0; c < width; c++) value[c] = (float)GET2(row * dv + first + c);
            if (decays) {
                for (int64_t k = 0; k < dk; k++)
                    decay[k] = decays == 1 && k ? decay[0] : expf((float)GET4(row * decays + k));
                for (int64_t k = 0; k < dk; k++)
                    for (int64_t c = 0; c < COLUMNS; c++) state[k * COLUMNS + c] *= decay[k];
            }
            if (betas) {
                float beta = (float)GET5(betas == 1 ? batch * steps + t : row);
                for (int64_t k = 0; k < dk; k++) {
                    float now = (float)GET1(key + k);
                    for (int64_t c = 0; c < COLUMNS; c++) known[c] += now * state[k * COLUMNS + c];
                }
                for (int64_t c = 0; c < COLUMNS; c++) value[c] = beta * (value[c] - known[c]);
            }
            for (int64_t k = 0; k < dk; k++) {
                float now = (float)GET1(key + k);
                for (int64_t c = 0; c < COLUMNS; c++) state[k * COLUMNS + c] += now * value[c];
            }
            for (int64_t g = 0; g < group; g++) {
                float sum[COLUMNS] = {0};
                int64_t query = (row * group + g) * dk;
                for (int64_t k = 0; k < dk; k++) {
                    float now = (float)GET0(query + k);
                    for (int64_t c = 0; c < COLUMNS; c++) sum[c] += now * state[k * COLUMNS + c];
                }
                for (int64_t c = 0; c < width; c++) PUT6((row * group + g) * dv + first + c, (V6)(scale * sum[c]));
            }
        }
        for (int64_t k = 0; k < dk; k++)
            for (int64_t c = 0; c < width; c++) PUT7(matrix + k * dv + c, (V7)state[k * COLUMNS + c]);
    }
}
