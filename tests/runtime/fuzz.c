/* Mutates an artifact (open) or a plan (plan) and uses it; sanitizers watch. Usage: fuzz open|plan FILE COUNT SEED */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

static uint64_t state;

static uint64_t next_random(void) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void nothing(const tw_args *args, int64_t begin, int64_t end) {
    (void)args;
    (void)begin;
    (void)end;
}

static const tw_kernel kernels[] = {nothing, nothing, nothing, nothing, nothing, nothing};
static _Alignas(64) float memory[64 * 1024];

/* Runs every entry point on small inputs of the types and ranks it asks for. */
static int run_all(const tw_runtime *r, tw_plan *plan) {
    static const int64_t sizes[] = {1, 2, 6, 12, 48};
    int ran = 0;
    for (uint32_t e = 0; e < r->entry_count(plan); e++) {
        uint32_t inputs = r->input_count(plan, e), outputs = r->output_count(plan, e);
        tw_tensor *in = calloc(inputs + 1, sizeof *in), *out = calloc(outputs + 1, sizeof *out);
        tw_error error;
        for (uint32_t i = 0; i < inputs; i++) {
            const tw_signature *s = r->input(plan, e, i);
            in[i].data = memory;
            in[i].dtype = s->dtype;
            in[i].rank = s->rank < 3 ? s->rank : 0;
            for (int32_t d = 0; d < in[i].rank; d++) in[i].dim[d] = d == 1 ? 48 : sizes[next_random() % 4];
        }
        if (r->run(plan, e, in, inputs, out, outputs, NULL, &error) == TW_OK) {
            ran++;
            for (uint32_t i = 0; i < outputs; i++) r->release(out[i].data);
        }
        free(in);
        free(out);
    }
    return ran;
}

static int use_plan(const unsigned char *data, uint64_t bytes) {
    extern const tw_runtime tw_runtime_v1;
    static const tw_weight tensor = {"w", 0, 6144};
    const tw_weights weights = {memory, sizeof memory, &tensor, 1};
    tw_plan *plan;
    tw_error error;
    if (tw_runtime_v1.create(&plan, data, bytes, &weights, kernels, 6, 2, &error) != TW_OK) return -1;
    int ran = run_all(&tw_runtime_v1, plan);
    tw_runtime_v1.destroy(plan);
    return ran;
}

static int use_artifact(const unsigned char *data, uint64_t bytes) {
    tw_model *model;
    tw_error error;
    int32_t code = tw_open_memory(&model, data, bytes, NULL, &error);
    if (code != TW_OK) return code == TW_ARTIFACT && error.text[0] != 0 ? -1 : -2;
    tw_close(model);
    return 1;
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    int plans = strcmp(arguments[1], "plan") == 0;
    FILE *file = fopen(arguments[2], "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) return 2;
    size_t bytes = (size_t)ftell(file);
    unsigned char *original = malloc(bytes), *mutated = malloc(bytes);
    rewind(file);
    if (original == NULL || mutated == NULL || fread(original, 1, bytes, file) != bytes) return 2;
    fclose(file);
    state = strtoull(arguments[4], NULL, 10) * 2654435761u + 1;
    long refused = 0, ran = 0, other = 0, intact = plans ? use_plan(original, bytes) : use_artifact(original, bytes);
    for (long i = 0; i < atol(arguments[3]); i++) {
        size_t length = next_random() % 8 == 0 ? next_random() % bytes : bytes;
        memcpy(mutated, original, bytes);
        for (uint64_t k = next_random() % 3 + 1; k > 0; k--) {
            size_t at = next_random() % 4 ? next_random() % bytes : bytes - 1 - next_random() % (bytes < 700 ? bytes : 700);
            uint32_t value = (uint32_t[]){0, 1, 2, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 64, 4096}[next_random() % 8];
            if (next_random() % 2 && at / 4 * 4 + 4 <= bytes) memcpy(mutated + at / 4 * 4, &value, 4);
            else mutated[at] ^= (unsigned char)(1u << next_random() % 8);
        }
        unsigned char *exact = malloc(length ? length : 1); /* so that the sanitizer sees its end */
        memcpy(exact, mutated, length);
        int result = plans ? use_plan(exact, length) : use_artifact(exact, length);
        free(exact);
        if (result == -1) refused++;
        else if (result >= 0) ran++;
        else other++;
    }
    printf("intact %ld refused %ld ran %ld other %ld\n", intact, refused, ran, other);
    free(original);
    free(mutated);
    return other != 0;
}
