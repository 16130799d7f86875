/* Runs the first entry point of an artifact on float32 rows from a file; writes the outputs' bytes. */
#include <stdio.h>
#include <stdlib.h>

#define TILEWRIGHT_IMPLEMENTATION
#include "tilewright.h"

int main(int count, char **arguments) { /* MODEL INPUT ROWS COLUMNS OUTPUT [THREADS [DEVICE [DRIVER]]] */
    tw_model *model;
    tw_error error;
    if (count < 6) return TW_USAGE;
    tw_options options = {0};
    options.threads = count > 6 ? atoi(arguments[6]) : 0;
    options.device = count > 7 ? arguments[7] : NULL;
    options.driver = count > 8 ? arguments[8] : NULL;
    if (tw_open(&model, arguments[1], &options, &error) != TW_OK) {
        fprintf(stderr, "%s\n", error.text);
        return error.code;
    }
    tw_tensor x = {NULL, 0, 1, 2, {atol(arguments[3]), atol(arguments[4])}}, out[8] = {{0}};
    size_t bytes = (size_t)(x.dim[0] * x.dim[1]) * sizeof(float);
    uint32_t outputs = tw_output_count(model, 0);
    FILE *input = fopen(arguments[2], "rb"), *output = fopen(arguments[5], "wb");
    x.data = malloc(bytes);
    if (input == NULL || output == NULL || x.data == NULL || outputs > 8) return TW_USAGE;
    if (fread(x.data, 1, bytes, input) != bytes) return TW_USAGE;
    if (tw_run(model, 0, &x, 1, out, outputs, &error) != TW_OK) {
        fprintf(stderr, "%s\n", error.text);
        tw_close(model);
        return error.code;
    }
    for (uint32_t i = 0; i < outputs; i++) {
        fwrite(out[i].data, 1, (size_t)out[i].bytes, output);
        tw_free(model, out[i].data);
    }
    free(x.data);
    fclose(input);
    if (fclose(output) != 0) return TW_RESOURCE;
    tw_close(model);
    return 0;
}
