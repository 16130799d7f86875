/* Runs the model on .npy files and writes .npy files. */
#include "model.h"
#include "runtime/npy.h"

static int fail(int32_t code, const char *where, const char *what) {
    fprintf(stderr, "error: %s: %s\n", where, what);
    return code;
}

static int usage(const model *m, uint32_t entry) {
    fprintf(stderr, "usage: run [--data DIR] [--device N] [--threads N] [--entry NAME] [--repeat N] [--output-dir DIR]\n"
                    "           --input NAME=FILE.npy …\n");
    for (uint32_t i = 0; m != NULL && i < model_input_count(m, entry); i++)
        fprintf(stderr, "  input %s %s\n", model_input(m, entry, i)->name, model_input(m, entry, i)->shape);
    return TW_USAGE;
}

/* Index of the input that "NAME=FILE" names, or -1. */
static int named_input(const model *m, uint32_t entry, const char *argument) {
    for (uint32_t i = 0; i < model_input_count(m, entry); i++) {
        const char *name = model_input(m, entry, i)->name;
        if (strncmp(argument, name, strlen(name)) == 0 && argument[strlen(name)] == '=') return (int)i;
    }
    return -1;
}

static int read_inputs(const model *m, uint32_t entry, int count, char **arguments, tw_tensor *in) {
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--input") != 0) continue;
        int which = named_input(m, entry, arguments[i + 1]);
        if (which < 0) return fail(TW_USAGE, arguments[i + 1], "there is no such input"), usage(m, entry);
        const tw_signature *s = model_input(m, entry, (uint32_t)which);
        const char *path = arguments[i + 1] + strlen(s->name) + 1;
        if (in[which].data != NULL) return fail(TW_USAGE, s->name, "this input is given twice");
        const char *wrong = npy_read(path, s->dtype, &in[which]);
        if (wrong != NULL) return fail(TW_USAGE, path, wrong);
    }
    for (uint32_t i = 0; i < model_input_count(m, entry); i++)
        if (in[i].data == NULL) return fail(TW_USAGE, model_input(m, entry, i)->name, "this input is missing"), usage(m, entry);
    return TW_OK;
}

static int write_outputs(const model *m, uint32_t entry, const tw_tensor *outputs, const char *folder) {
    for (uint32_t i = 0; i < model_output_count(m, entry); i++) {
        char path[4096];
        const char *name = model_output(m, entry, i)->name;
        printf("%s [", name);
        for (int32_t d = 0; d < outputs[i].rank; d++) printf(d ? ", %lld" : "%lld", (long long)outputs[i].dim[d]);
        printf("]\n");
        size_t base = (size_t)snprintf(path, sizeof path, "%s/", folder);
        if (base + strlen(name) + 5 > sizeof path) return fail(TW_USAGE, folder, "the path is too long");
        for (const char *c = name; *c != 0; c++) path[base++] = *c == '/' ? '_' : *c;
        memcpy(path + base, ".npy", 5);
        const char *wrong = npy_write(path, &outputs[i]);
        if (wrong != NULL) return fail(TW_RESOURCE, path, wrong);
    }
    return TW_OK;
}

static int run(model *m, uint32_t entry, int count, char **arguments, const char *folder, int repeat) {
    uint32_t inputs = model_input_count(m, entry), outputs = model_output_count(m, entry);
    tw_tensor *in = calloc((size_t)inputs + 1, sizeof *in), *out = calloc((size_t)outputs + 1, sizeof *out);
    tw_error error;
    int code = in == NULL || out == NULL ? fail(TW_RESOURCE, "run", "no memory") : read_inputs(m, entry, count, arguments, in);
    for (int i = 0; i < repeat && code == TW_OK; i++)
        if (model_run(m, entry, in, inputs, out, outputs, &error) != TW_OK) code = fail(error.code, "run", error.text);
    if (code == TW_OK && folder != NULL) code = write_outputs(m, entry, out, folder);
    for (uint32_t i = 0; in != NULL && i < inputs; i++) free(in[i].data);
    for (uint32_t i = 0; out != NULL && i < outputs; i++) model_free(m, out[i].data);
    free(in);
    free(out);
    return code;
}

int main(int count, char **arguments) {
    const char *data = "data", *folder = NULL, *name = NULL;
    int device = 0, threads = 0, repeat = 1, wrong = 0;
    model *m;
    tw_error error;
    for (int i = 1; i < count; i += 2) {
        const char *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (value == NULL) wrong = 1;
        else if (strcmp(arguments[i], "--data") == 0) data = value;
        else if (strcmp(arguments[i], "--output-dir") == 0) folder = value;
        else if (strcmp(arguments[i], "--entry") == 0) name = value;
        else if (strcmp(arguments[i], "--device") == 0) device = atoi(value);
        else if (strcmp(arguments[i], "--threads") == 0) threads = atoi(value);
        else if (strcmp(arguments[i], "--repeat") == 0) repeat = atoi(value);
        else if (strcmp(arguments[i], "--input") != 0) wrong = 1;
    }
    if (wrong) return usage(NULL, 0);
    if (model_open(&m, data, device, threads, &error) != TW_OK) return fail(error.code, "open", error.text);
    int32_t entry = name != NULL ? model_entry(m, name) : 0;
    int code = entry < 0 ? fail(TW_USAGE, name, "there is no such entry point")
                         : run(m, (uint32_t)entry, count, arguments, folder, repeat);
    model_close(m);
    return code;
}
