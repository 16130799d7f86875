/* Mutates a plan or its modules and runs what is taken on the mock GPU; sanitizers and the mock watch.
 * Usage: fuzz plan|modules PLAN MODULES MOCK COUNT SEED
 *
 * A mutated plan that is taken can give kernels wrong buffers and sizes: that is the mock's affair (it knows which memory
 * is whose), and no rule about memory holds for it. What must hold is that the runtime itself touches nothing it may not. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

extern const tw_runtime tw_runtime_v1;
static uint64_t state;
static const char *mock;
static void (*reset)(void);
static int64_t (*live)(void);

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

static const tw_kernel host[] = {nothing, nothing, nothing, nothing, nothing, nothing};
static _Alignas(64) float memory[64 * 1024];

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
        for (int turn = 0; turn < 3; turn++) {
            memset(out, 0, outputs * sizeof *out);
            if (r->run(plan, e, in, inputs, out, outputs, NULL, &error) != TW_OK) break;
            ran++;
            for (uint32_t i = 0; i < outputs; i++) r->release(out[i].data);
        }
        free(in);
        free(out);
    }
    return ran;
}

static int use(const unsigned char *plan_data, uint64_t plan_bytes, const unsigned char *code, uint64_t code_bytes, uint32_t kernels) {
    static const tw_weight tensor = {"w", 0, 6144};
    const tw_weights weights = {memory, sizeof memory, &tensor, 1};
    tw_device_options options = {.size = sizeof options, .threads = 1, .library = mock, .modules = code, .module_bytes = code_bytes,
                                 .host_kernels = kernels ? host : NULL, .host_kernel_count = kernels};
    tw_plan *plan;
    tw_error error;
    int ran = -1;
    reset();
    if (tw_runtime_v1.create_device(&plan, plan_data, plan_bytes, &weights, &options, &error) == TW_OK) {
        ran = run_all(&tw_runtime_v1, plan);
        tw_runtime_v1.destroy(plan);
    }
    if (live() != 0) {
        printf("lost %d\n", (int)live());
        exit(3);
    }
    return ran;
}

static unsigned char *whole(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
    *bytes = (size_t)ftell(file);
    unsigned char *data = malloc(*bytes);
    rewind(file);
    if (data == NULL || fread(data, 1, *bytes, file) != *bytes) exit(2);
    fclose(file);
    return data;
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    size_t sizes[2];
    unsigned char *data[2] = {whole(arguments[2], &sizes[0]), whole(arguments[3], &sizes[1])};
    int which = strcmp(arguments[1], "plan") == 0 ? 0 : 1;
    mock = arguments[4];
    void *library = dlopen(mock, RTLD_NOW);
    if (library == NULL) return puts(dlerror()), 2;
    *(void **)&reset = dlsym(library, "mock_reset");
    *(void **)&live = dlsym(library, "mock_live");
    state = strtoull(arguments[6], NULL, 10) * 2654435761u + 1;
    uint32_t names, hosts;
    memcpy(&names, data[0] + 16, 4);
    memcpy(&hosts, data[0] + 20 + 4 * names, 4);
    long refused = 0, ran = 0, idle = 0, intact = use(data[0], sizes[0], data[1], sizes[1], hosts);
    for (long i = 0; i < atol(arguments[5]); i++) {
        size_t bytes = sizes[which], length = next_random() % 8 == 0 ? next_random() % bytes : bytes;
        unsigned char *mutated = malloc(bytes);
        memcpy(mutated, data[which], bytes);
        for (uint64_t k = next_random() % 3 + 1; k > 0; k--) {
            size_t at = next_random() % (next_random() % 2 && bytes > 700 ? 700 : bytes);
            uint32_t value = (uint32_t[]){0, 1, 2, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 64, 4096}[next_random() % 8];
            if (next_random() % 2 && at / 4 * 4 + 4 <= bytes) memcpy(mutated + at / 4 * 4, &value, 4);
            else mutated[at] ^= (unsigned char)(1u << next_random() % 8);
        }
        unsigned char *exact = malloc(length ? length : 1); /* so that the sanitizer sees its end */
        memcpy(exact, mutated, length);
        int result = which == 0 ? use(exact, length, data[1], sizes[1], hosts) : use(data[0], sizes[0], exact, length, hosts);
        free(exact);
        free(mutated);
        if (result < 0) refused++;
        else if (result == 0) idle++;
        else ran++;
    }
    printf("intact %ld refused %ld ran %ld idle %ld\n", intact, refused, ran, idle);
    reset();
    free(data[0]);
    free(data[1]);
    return 0;
}
