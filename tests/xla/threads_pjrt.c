/* Four threads run one model on rows of several sizes; every result is that of a run alone. Usage: MODEL.tw PLUGIN CACHE */
#define TILEWRIGHT_PJRT_IMPLEMENTATION
#include "tilewright_pjrt.h"

enum { MOST = 12, WIDTH = 48, OUT = 32, TIMES = 60 };
static float rows[MOST * WIDTH], expected[MOST + 1][2][MOST * OUT];
static tw_pjrt *model;

static int32_t run(int64_t n, tw_tensor out[2]) {
    tw_error error;
    tw_tensor x = {rows, sizeof rows, 1, 2, {n, WIDTH}};
    int32_t code = tw_pjrt_run(model, 0, &x, 1, out, 2, &error);
    if (code != TW_OK) fprintf(stderr, "%s\n", error.text);
    return code;
}

static void *work(void *seed) {
    uintptr_t wrong = 0;
    for (uint64_t i = 0, n = (uintptr_t)seed; i < TIMES; i++, n = n * 7 + 3) {
        tw_tensor out[2];
        int64_t size = (int64_t)(n % MOST) + 1;
        memset(out, 0, sizeof out);
        wrong += run(size, out) != TW_OK;
        for (int k = 0; k < 2; k++) {
            wrong += out[k].data == NULL || memcmp(out[k].data, expected[size][k], (size_t)size * OUT * sizeof(float)) != 0;
            tw_pjrt_free(out[k].data);
        }
    }
    return (void *)wrong;
}

int main(int count, char **arguments) {
    tw_error error;
    tw_pjrt_options options = {.plugin = arguments[2], .cache = arguments[3], .allow_jit = 1};
    pthread_t threads[4];
    uintptr_t wrong = 0;
    (void)count;
    if (tw_pjrt_open(&model, arguments[1], &options, &error) != TW_OK) return fprintf(stderr, "%s\n", error.text), error.code;
    for (int i = 0; i < MOST * WIDTH; i++) rows[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
    for (int64_t n = 1; n <= MOST; n++) { /* alone, into memory of the caller */
        tw_tensor out[2] = {{expected[n][0], sizeof expected[n][0], 0, 0, {0}}, {expected[n][1], sizeof expected[n][1], 0, 0, {0}}};
        wrong += run(n, out) != TW_OK;
    }
    tw_pjrt_close(model); /* anew, so that threads meet where programs are loaded and weights are placed */
    if (tw_pjrt_open(&model, arguments[1], &options, &error) != TW_OK) return fprintf(stderr, "%s\n", error.text), error.code;
    for (uintptr_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)(i + 1));
    for (int i = 0; i < 4; i++) {
        void *more;
        pthread_join(threads[i], &more);
        wrong += (uintptr_t)more;
    }
    tw_pjrt_close(model);
    printf("wrong %llu\n", (unsigned long long)wrong);
    return 0;
}
