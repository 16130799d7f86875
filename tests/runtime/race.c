/* Several threads run one plan at a time, with shapes that change; a race detector watches. Usage: race PLAN RUNS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

extern const tw_runtime tw_runtime_v1;
static tw_plan *plan;
static _Alignas(64) float weights[48 * 32], input[64 * 48];
static long runs;
static _Atomic int wrong;

/* Every run of `n` rows must give what the first one gave. */
static void *work(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    float *first[65] = {NULL};
    for (long i = 0; i < runs; i++) {
        int64_t n = (int64_t)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 33) % 64 + 1;
        tw_tensor x = {input, 0, 1, 2, {n, 48}}, out[2];
        tw_error error;
        memset(out, 0, sizeof out);
        if (tw_runtime_v1.run(plan, 0, &x, 1, out, 2, NULL, &error) != TW_OK) {
            wrong++;
            continue;
        }
        if (first[n] != NULL && memcmp(first[n], out[0].data, (size_t)out[0].bytes) != 0) wrong++;
        if (first[n] == NULL) first[n] = out[0].data;
        else tw_runtime_v1.release(out[0].data);
        tw_runtime_v1.release(out[1].data);
    }
    for (int i = 0; i < 65; i++) tw_runtime_v1.release(first[i]);
    return NULL;
}

int main(int count, char **arguments) {
    static unsigned char data[65536];
    FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
    if (file == NULL) return 2;
    size_t bytes = fread(data, 1, sizeof data, file);
    fclose(file);
    runs = atol(arguments[2]);
    for (int i = 0; i < 64 * 48; i++) input[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 48 * 32; i++) weights[i] = (float)(i % 5) - 2;
    const tw_weight tensor = {"w", 0, sizeof weights};
    const tw_weights all = {weights, sizeof weights, &tensor, 1};
    tw_error error;
    if (tw_runtime_v1.create(&plan, data, bytes, &all, TW_KERNELS, TW_KERNEL_COUNT, 4, &error) != TW_OK) return puts(error.text), 1;
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    work((void *)9); /* alone: the pool is used */
    tw_runtime_v1.destroy(plan);
    printf("wrong %d\n", wrong);
    return wrong != 0;
}
