/* Runs a model.tw on a PJRT plugin: .npy files in, .npy files out, and how long each part of the start took.
 *
 *     pjrt_run MODEL.tw --plugin libtpu.so --input x=@x.npy --output-dir out
 *
 * Build: cc -std=c11 -O2 -D_GNU_SOURCE pjrt_run.c -o pjrt_run -lpthread -lm -ldl */
#define TILEWRIGHT_PJRT_IMPLEMENTATION
#include "tilewright_pjrt.h"

#include "npy.h"

#ifdef TILEWRIGHT_EMBEDDED
#define FILES ""
#define FIRST 1 /* where options begin */
static int32_t open_model(tw_pjrt **model, char **arguments, const tw_pjrt_options *options, tw_error *error) {
    (void)arguments;
    return tw_pjrt_open_memory(model, (const char *)(uintptr_t)&tw_embedded_place + tw_embedded_place.distance, tw_embedded_place.bytes,
                               options, error);
}
#else
#define FILES "MODEL.tw "
#define FIRST 2
static int32_t open_model(tw_pjrt **model, char **arguments, const tw_pjrt_options *options, tw_error *error) {
    return tw_pjrt_open(model, arguments[1], options, error);
}
#endif

typedef struct {
    tw_pjrt_options open;
    const char *entry, *folder, *inputs[256];
    int input_count, repeat;
} request;

static int fail(int32_t code, const char *where, const char *what) {
    fprintf(stderr, "error: %s: %s\n", where, what);
    return code;
}

static int usage(void) {
    fprintf(stderr,
            "usage: %s %s--plugin LIBRARY --input NAME=@FILE.npy … [--output-dir DIR]\n"
            "  --plugin LIBRARY    the PJRT plugin: libtpu.so on a TPU machine\n"
            "  --allow-jit         compile programs that have no executable (seconds to minutes) and keep what comes out\n"
            "  --cache DIR         where executables are kept; '' for nowhere [~/.cache/tilewright/pjrt]\n"
            "  --entry NAME        the entry point [the first]\n"
            "  --target TARGET     run exactly this part, tpu:v5e\n"
            "  --repeat N          run N times more and tell the median\n"
            "  --threads N         of steps on the host\n"
            "  --no-mmap           read the file instead of mapping it\n",
            "PROGRAM", FILES);
    return TW_USAGE;
}

/* Options into a request; 0 when they make no sense. */
static int parse(int count, char **arguments, request *r) {
    for (int i = FIRST; i < count; i++) {
        const char *name = arguments[i];
        if (strcmp(name, "--allow-jit") == 0) {
            r->open.allow_jit = 1;
            continue;
        }
        if (strcmp(name, "--no-mmap") == 0) {
            r->open.copy = 1;
            continue;
        }
        if (++i == count) return 0;
        if (strcmp(name, "--plugin") == 0) r->open.plugin = arguments[i];
        else if (strcmp(name, "--cache") == 0) r->open.cache = arguments[i];
        else if (strcmp(name, "--target") == 0) r->open.target = arguments[i];
        else if (strcmp(name, "--threads") == 0) r->open.threads = atoi(arguments[i]);
        else if (strcmp(name, "--repeat") == 0) r->repeat = atoi(arguments[i]);
        else if (strcmp(name, "--entry") == 0) r->entry = arguments[i];
        else if (strcmp(name, "--output-dir") == 0) r->folder = arguments[i];
        else if (strcmp(name, "--input") == 0 && r->input_count < 256) r->inputs[r->input_count++] = arguments[i];
        else return 0;
    }
    return count >= FIRST && r->repeat >= 0 && r->repeat <= 100000;
}

static int read_inputs(const tw_pjrt *model, uint32_t entry, const request *r, tw_tensor *in) {
    for (int k = 0; k < r->input_count; k++) {
        uint32_t which = 0;
        const char *path = NULL;
        for (; which < tw_pjrt_input_count(model, entry); which++) {
            const char *name = tw_pjrt_input(model, entry, which)->name;
            size_t length = strlen(name);
            if (strncmp(r->inputs[k], name, length) == 0 && r->inputs[k][length] == '=') {
                path = r->inputs[k] + length + 1;
                break;
            }
        }
        if (path == NULL) return fail(TW_USAGE, r->inputs[k], "there is no such input");
        if (in[which].data != NULL) return fail(TW_USAGE, r->inputs[k], "this input was given before");
        path += *path == '@';
        const char *wrong = npy_read(path, tw_pjrt_input(model, entry, which)->dtype, &in[which]);
        if (wrong != NULL) return fail(TW_USAGE, path, wrong);
    }
    for (uint32_t i = 0; i < tw_pjrt_input_count(model, entry); i++) {
        const tw_signature *s = tw_pjrt_input(model, entry, i);
        if (in[i].data != NULL) continue;
        fprintf(stderr, "error: input %s %s is missing: --input %s=@FILE.npy\n", s->name, s->shape, s->name);
        return TW_USAGE;
    }
    return TW_OK;
}

static int write_outputs(const tw_pjrt *model, uint32_t entry, const tw_tensor *outputs, const char *folder) {
    for (uint32_t i = 0; i < tw_pjrt_output_count(model, entry); i++) {
        char path[4096];
        const char *name = tw_pjrt_output(model, entry, i)->name;
        printf("%s [", name);
        for (int32_t d = 0; d < outputs[i].rank; d++) printf(d ? ", %lld" : "%lld", (long long)outputs[i].dim[d]);
        printf("]\n");
        if (folder == NULL) continue;
        int base = snprintf(path, sizeof path, "%s/", folder);
        if (base < 0 || (size_t)base + strlen(name) + 5 > sizeof path) return fail(TW_USAGE, folder, "the path is too long");
        for (const char *c = name; *c != 0; c++) path[base++] = *c == '/' ? '_' : *c;
        memcpy(path + base, ".npy", 5);
        const char *wrong = npy_write(path, &outputs[i]);
        if (wrong != NULL) return fail(TW_RESOURCE, path, wrong);
    }
    return TW_OK;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Runs again, into the memory of the first run's outputs. */
static int repeat(tw_pjrt *model, uint32_t entry, int times, const tw_tensor *in, tw_tensor *out, tw_error *error) {
    double *seconds = calloc((size_t)times + 1, sizeof *seconds);
    int code = seconds != NULL ? TW_OK : fail(TW_RESOURCE, "run", "no memory");
    for (int i = 0; i < times && code == TW_OK; i++) {
        double start = twp__now();
        code = tw_pjrt_run(model, entry, in, tw_pjrt_input_count(model, entry), out, tw_pjrt_output_count(model, entry), error);
        if (code != TW_OK) fail(code, "run", error->text);
        seconds[i] = twp__now() - start;
    }
    if (code == TW_OK && times > 0) {
        qsort(seconds, (size_t)times, sizeof *seconds, compare);
        fprintf(stderr, "run %.3f ms, median of %d; least %.3f\n", 1e3 * seconds[times / 2], times, 1e3 * seconds[0]);
    }
    free(seconds);
    return code;
}

static void tell(tw_pjrt *model, double begun, double ready, double done) {
    tw_pjrt_report t;
    tw_pjrt_read_report(model, &t);
    fprintf(stderr, "%s on %s (%s): %u executables of the artifact, %u kept, %u compiled; %.1f MB of weights\n", tw_pjrt_target(model),
            t.device, t.platform,
            t.ahead, t.cached, t.compiled, 1e-6 * (double)t.weight_bytes);
    fprintf(stderr, "ready after %.1f ms: artifact %.1f, plugin %.1f, client %.1f, check %.1f, compile %.1f, load %.1f, weights %.1f\n",
            1e3 * (ready - begun),
            1e3 * t.artifact, 1e3 * t.plugin, 1e3 * t.client, 1e3 * t.check, 1e3 * t.compile, 1e3 * t.load, 1e3 * t.weights);
    fprintf(stderr, "first result after %.1f ms\n", 1e3 * (done - begun));
    if (*t.note != 0) fprintf(stderr, "note: %s\n", t.note);
}

static int run(tw_pjrt *model, const request *r, double begun) {
    tw_error error;
    int32_t entry = r->entry != NULL ? tw_pjrt_entry(model, r->entry) : 0;
    if (entry < 0) return fail(TW_USAGE, r->entry, "there is no such entry point");
    uint32_t inputs = tw_pjrt_input_count(model, (uint32_t)entry), outputs = tw_pjrt_output_count(model, (uint32_t)entry);
    tw_tensor *in = calloc((size_t)inputs + 1, sizeof *in), *out = calloc((size_t)outputs + 1, sizeof *out);
    int code = in != NULL && out != NULL ? read_inputs(model, (uint32_t)entry, r, in) : fail(TW_RESOURCE, "run", "no memory");
    if (code == TW_OK && (code = tw_pjrt_prepare(model, (uint32_t)entry, in, inputs, &error)) != TW_OK) fail(code, "load", error.text);
    double ready = twp__now();
    if (code == TW_OK && (code = tw_pjrt_run(model, (uint32_t)entry, in, inputs, out, outputs, &error)) != TW_OK) fail(code, "run", error.text);
    if (code == TW_OK) tell(model, begun, ready, twp__now());
    if (code == TW_OK) code = write_outputs(model, (uint32_t)entry, out, r->folder);
    if (code == TW_OK) code = repeat(model, (uint32_t)entry, r->repeat, in, out, &error);
    for (uint32_t i = 0; i < inputs && in != NULL; i++) free(in[i].data);
    for (uint32_t i = 0; i < outputs && out != NULL; i++) tw_pjrt_free(out[i].data);
    free(in);
    free(out);
    return code;
}

int main(int count, char **arguments) {
    double begun = twp__now();
    request r;
    tw_pjrt *model;
    tw_error error;
    memset(&r, 0, sizeof r);
    if (!parse(count, arguments, &r)) return usage();
    if (open_model(&model, arguments, &r.open, &error) != TW_OK) return fail(error.code, "open", error.text);
    int code = run(model, &r, begun);
    tw_pjrt_close(model);
    return code;
}
