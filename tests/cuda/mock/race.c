/* Several threads run one plan on the mock GPU at a time, with shapes that change; a race detector watches.
 * Usage: race PLAN MODULES MOCK RUNS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

#define SHAPES 9
#define THREADS 4

extern const tw_runtime tw_runtime_v1;
static tw_plan *plan;
static _Alignas(64) float weights[48 * 32], input[64 * 48];
static long runs;
static _Atomic int wrong;

static void run_once(int64_t n, float **first) {
    tw_tensor x = {input, 0, 1, 2, {n, 48}}, out[2];
    tw_device_use use = {.size = sizeof use};
    tw_error error;
    memset(out, 0, sizeof out);
    if (tw_runtime_v1.run(plan, 0, &x, 1, out, 2, NULL, &error) != TW_OK) {
        wrong++;
        return;
    }
    if (first[n] == NULL) first[n] = memcpy(malloc((size_t)out[0].bytes), out[0].data, (size_t)out[0].bytes);
    else if (memcmp(first[n], out[0].data, (size_t)out[0].bytes) != 0) wrong++;
    if (tw_runtime_v1.device_info(plan, &use, &error) != TW_OK) wrong++;
    for (int i = 0; i < 2; i++) tw_runtime_v1.release(out[i].data);
}

static void *work(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    float *first[SHAPES] = {NULL};
    for (long i = 0; i < runs; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        run_once((int64_t)(seed >> 33) % (SHAPES - 1) + 1, first);
    }
    for (int i = 0; i < SHAPES; i++) free(first[i]);
    return NULL;
}

static void *whole(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    void *data = malloc(1 << 20);
    if (file == NULL || data == NULL) exit(2);
    *bytes = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    size_t plan_bytes, module_bytes;
    void *plan_data = whole(arguments[1], &plan_bytes), *modules = whole(arguments[2], &module_bytes);
    for (int i = 0; i < 48 * 32; i++) weights[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 64 * 48; i++) input[i] = (float)(i % 5) - 2;
    runs = atol(arguments[4]);
    static const tw_weight tensor = {"w", 0, 6144};
    const tw_weights all = {weights, 6144, &tensor, 1};
    const tw_device_options options = {.size = sizeof options, .threads = 2, .graphs = 3, .library = arguments[3], .modules = modules,
                                       .module_bytes = module_bytes};
    pthread_t threads[THREADS];
    tw_error error;
    if (tw_runtime_v1.create_device(&plan, plan_data, plan_bytes, &all, &options, &error) != TW_OK) return puts(error.text), 1;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    tw_runtime_v1.destroy(plan);
    free(plan_data);
    free(modules);
    printf("wrong %d\n", wrong);
    return wrong != 0;
}
