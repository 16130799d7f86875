/* Embeds token ids with an encoder's artifact: three int64 inputs [batch, tokens] from a file, float32 rows out. */
#include <stdio.h>
#include <stdlib.h>

#define TILEWRIGHT_IMPLEMENTATION
#include "tilewright.h"

int main(int count, char **arguments) { /* MODEL INPUT BATCH TOKENS OUTPUT */
    tw_model *model;
    tw_error error;
    if (count != 6) return TW_USAGE;
    if (tw_open(&model, arguments[1], NULL, &error) != TW_OK) {
        fprintf(stderr, "%s\n", error.text);
        return error.code;
    }
    int64_t batch = atol(arguments[3]), tokens = atol(arguments[4]), bytes = batch * tokens * 8;
    char *data = malloc((size_t)bytes * 3);
    FILE *input = fopen(arguments[2], "rb"), *output = fopen(arguments[5], "wb");
    if (data == NULL || input == NULL || output == NULL) return TW_RESOURCE;
    if (fread(data, 1, (size_t)bytes * 3, input) != (size_t)bytes * 3) return TW_USAGE;
    tw_tensor in[3], rows = {0};
    for (int i = 0; i < 3; i++) in[i] = (tw_tensor){data + i * bytes, bytes, 7, 2, {batch, tokens}};
    if (tw_run(model, 0, in, 3, &rows, 1, &error) != TW_OK) {
        fprintf(stderr, "%s\n", error.text);
        return error.code;
    }
    fwrite(rows.data, 1, (size_t)rows.bytes, output);
    tw_free(model, rows.data);
    tw_close(model);
    free(data);
    fclose(input);
    return fclose(output) == 0 ? 0 : TW_RESOURCE;
}
