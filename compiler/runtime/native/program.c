/* The main function of an exported program: .npy files in, .npy files out. */
#include "npy.h"

int32_t tw_open_embedded(tw_model **model, const tw_options *options, tw_error *error);

static int fail(int32_t code, const char *where, const char *what) {
    fprintf(stderr, "error: %s: %s\n", where, what);
    return code;
}

static int usage(const tw_model *model, uint32_t entry) {
    fprintf(stderr, "usage: PROGRAM [--entry NAME] [--device cpu|cuda|cuda:N] [--allow-jit] [--driver LIBRARY] [--threads N] [--output-dir DIR]\n"
                    "               --input NAME=FILE.npy …\n");
    for (uint32_t i = 0; i < tw_input_count(model, entry); i++)
        fprintf(stderr, "  input %s %s\n", tw_input(model, entry, i)->name, tw_input(model, entry, i)->shape);
    return TW_USAGE;
}

/* Index of the input that "NAME=FILE" names, or -1. */
static int named_input(const tw_model *model, uint32_t entry, const char *argument) {
    for (uint32_t i = 0; i < tw_input_count(model, entry); i++) {
        const char *name = tw_input(model, entry, i)->name;
        if (strncmp(argument, name, strlen(name)) == 0 && argument[strlen(name)] == '=') return (int)i;
    }
    return -1;
}

static int write_outputs(const tw_model *model, uint32_t entry, const tw_tensor *outputs, const char *folder) {
    for (uint32_t i = 0; i < tw_output_count(model, entry); i++) {
        char path[4096];
        const char *name = tw_output(model, entry, i)->name;
        printf("%s [", name);
        for (int32_t d = 0; d < outputs[i].rank; d++) printf(d ? ", %lld" : "%lld", (long long)outputs[i].dim[d]);
        printf("]\n");
        if (folder == NULL) continue;
        size_t base = (size_t)snprintf(path, sizeof path, "%s/", folder);
        if (base + strlen(name) + 5 > sizeof path) return fail(TW_USAGE, folder, "the path is too long");
        for (const char *c = name; *c != 0; c++) path[base++] = *c == '/' ? '_' : *c;
        memcpy(path + base, ".npy", 5);
        const char *wrong = npy_write(path, &outputs[i]);
        if (wrong != NULL) return fail(TW_RESOURCE, path, wrong);
    }
    return TW_OK;
}

/* Words of an option. */
static int width(const char *option) { return strcmp(option, "--allow-jit") == 0 ? 1 : 2; }

static int run(tw_model *model, uint32_t entry, int count, char **arguments, const char *folder) {
    uint32_t inputs = tw_input_count(model, entry), outputs = tw_output_count(model, entry);
    tw_tensor *in = calloc((size_t)inputs + 1, sizeof *in), *out = calloc((size_t)outputs + 1, sizeof *out);
    tw_error error;
    if (in == NULL || out == NULL) return fail(TW_RESOURCE, "run", "no memory");
    for (int i = 1; i + 1 < count; i += width(arguments[i])) {
        if (strcmp(arguments[i], "--input") != 0) continue;
        int which = named_input(model, entry, arguments[i + 1]);
        if (which < 0) return fail(TW_USAGE, arguments[i + 1], "there is no such input"), usage(model, entry);
        const char *path = strchr(arguments[i + 1] + strlen(tw_input(model, entry, (uint32_t)which)->name), '=') + 1;
        const char *wrong = npy_read(path, tw_input(model, entry, (uint32_t)which)->dtype, &in[which]);
        if (wrong != NULL) return fail(TW_USAGE, path, wrong);
    }
    for (uint32_t i = 0; i < inputs; i++)
        if (in[i].data == NULL) return fail(TW_USAGE, tw_input(model, entry, i)->name, "this input is missing"), usage(model, entry);
    if (tw_run(model, entry, in, inputs, out, outputs, &error) != TW_OK) return fail(error.code, "run", error.text);
    int code = write_outputs(model, entry, out, folder);
    for (uint32_t i = 0; i < inputs; i++) free(in[i].data);
    for (uint32_t i = 0; i < outputs; i++) tw_free(model, out[i].data);
    free(in);
    free(out);
    return code;
}

int main(int count, char **arguments) {
    const char *folder = NULL, *name = NULL;
    tw_options options = {0};
    tw_model *model;
    tw_error error;
    int wrong = 0;
    for (int i = 1; i < count; i += width(arguments[i])) {
        if (strcmp(arguments[i], "--allow-jit") == 0) options.allow_jit = 1;
        else if (i + 1 == count) wrong = 1;
        else if (strcmp(arguments[i], "--output-dir") == 0) folder = arguments[i + 1];
        else if (strcmp(arguments[i], "--entry") == 0) name = arguments[i + 1];
        else if (strcmp(arguments[i], "--device") == 0) options.device = arguments[i + 1];
        else if (strcmp(arguments[i], "--driver") == 0) options.driver = arguments[i + 1];
        else if (strcmp(arguments[i], "--threads") == 0) options.threads = atoi(arguments[i + 1]);
        else if (strcmp(arguments[i], "--input") != 0) wrong = 1;
    }
    if (tw_open_embedded(&model, &options, &error) != TW_OK) return fail(error.code, "open", error.text);
    int32_t entry = name != NULL ? tw_entry(model, name) : 0;
    if (entry < 0) return fail(TW_USAGE, name, "there is no such entry point");
    int code = wrong ? usage(model, (uint32_t)entry) : run(model, (uint32_t)entry, count, arguments, folder);
    tw_close(model);
    return code;
}
