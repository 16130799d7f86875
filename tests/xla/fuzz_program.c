/* Mutates program.json and reads it, and runs what was read on a plugin that gives zeros; sanitizers watch.
 * Usage: fuzz_program MODEL.tw COUNT SEED */
#define TILEWRIGHT_PJRT_IMPLEMENTATION
#include "tilewright_pjrt.h"

static uint64_t state;

static uint64_t next_random(void) { /* xorshift64 */
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* -- a plugin without a device: a buffer is its type and dimensions, a program gives what the step's slots say ---------- */

struct pjrt_buffer {
    int32_t type;
    size_t rank, bytes;
    int64_t dim[TW_MAX_RANK];
    void *data;
};

static const twp__step *running; /* the step whose outputs execute makes */
static const twp__entry *running_entry;
static int64_t alive;

static pjrt_buffer *new_buffer(int32_t type, const int64_t *dim, size_t rank) {
    int64_t elements = 1;
    for (size_t i = 0; i < rank; i++)
        if (dim[i] < 0 || (dim[i] > 0 && (__builtin_mul_overflow(elements, dim[i], &elements) || elements > 1 << 24))) return NULL;
    for (size_t i = 0; i < rank; i++) elements *= dim[i] > 0;
    pjrt_buffer *b = calloc(1, sizeof *b);
    b->type = type;
    b->rank = rank;
    memcpy(b->dim, dim, rank * sizeof *dim);
    b->bytes = (size_t)elements;
    for (size_t i = 0; i < sizeof twp__dtypes / sizeof *twp__dtypes; i++)
        if (twp__dtypes[i].type == type) b->bytes = (size_t)elements * (size_t)twp__dtypes[i].bits / 8;
    b->data = calloc(1, b->bytes + 1);
    alive++;
    return b;
}

static char problem; /* the only error there is */
static pjrt_error *refuse(void) { return (pjrt_error *)(void *)&problem; }
static pjrt_error *nothing(void *arguments) { return (void)arguments, NULL; }
static void tell_nothing(void *arguments) { (void)arguments; }

static pjrt_error *from_host(void *arguments) {
    pjrt_from_host_args *a = arguments;
    static const int64_t none[1] = {0};
    if ((a->buffer = new_buffer(a->type, a->rank ? a->dims : none, a->rank)) == NULL) return refuse();
    memcpy(a->buffer->data, a->data, a->buffer->bytes); /* reads all of it */
    a->done = NULL;
    return NULL;
}

static pjrt_error *to_host(void *arguments) {
    pjrt_to_host_args *a = arguments;
    if (a->bytes < a->buffer->bytes) return refuse();
    memcpy(a->data, a->buffer->data, a->buffer->bytes);
    a->event = NULL;
    return NULL;
}

static pjrt_error *type_of(void *arguments) {
    pjrt_number_args *a = arguments;
    a->number = ((const pjrt_buffer *)a->object)->type;
    return NULL;
}

static pjrt_error *dimensions(void *arguments) {
    pjrt_list_args *a = arguments;
    const pjrt_buffer *b = a->object;
    a->data = b->dim;
    a->count = b->rank;
    return NULL;
}

static pjrt_error *destroy(void *arguments) {
    pjrt_buffer *b = ((pjrt_object_args *)arguments)->object;
    free(b->data);
    free(b);
    alive--;
    return NULL;
}

static pjrt_error *count_outputs(void *arguments) {
    ((pjrt_result_args *)arguments)->result = (void *)(uintptr_t)running->output_count;
    return NULL;
}

static pjrt_error *executable_of(void *arguments) {
    ((pjrt_result_args *)arguments)->result = NULL;
    return NULL;
}

/* Outputs of the sizes of the first variant that fits: the one that was chosen is not told, so all are tried. */
static pjrt_error *execute(void *arguments) {
    pjrt_execute_args *a = arguments;
    const twp__variant *v = (const twp__variant *)(const void *)a->loaded;
    for (uint32_t i = 0; i < running->output_count; i++) {
        const twp__slot *s = &running_entry->slot[running->output[i]];
        int64_t dim[TW_MAX_RANK] = {0};
        for (int32_t d = 0; d < s->rank; d++)
            if (twp__evaluate(s->dim[d], v->sizes, &dim[d]) != 1) dim[d] = 1;
        if ((a->outputs[0][i] = new_buffer(s->dtype->type, dim, (size_t)s->rank)) != NULL) continue;
        while (i-- > 0) destroy(&(pjrt_object_args){0, NULL, a->outputs[0][i]}), a->outputs[0][i] = NULL;
        return refuse();
    }
    a->complete[0] = NULL;
    return NULL;
}

static union {
    pjrt_api api;
    char room[sizeof(pjrt_api) + 80 * sizeof(pjrt_entry)];
} plugin;

static void make_plugin(void) {
    plugin.api.size = sizeof plugin;
    for (int i = 0; i < 80; i++) plugin.api.function[i].call = nothing;
    plugin.api.function[PJRT_ERROR_DESTROY].tell = tell_nothing;
    plugin.api.function[PJRT_ERROR_MESSAGE].tell = tell_nothing;
    plugin.api.function[PJRT_CLIENT_BUFFER_FROM_HOST].call = from_host;
    plugin.api.function[PJRT_BUFFER_TO_HOST].call = to_host;
    plugin.api.function[PJRT_BUFFER_TYPE].call = type_of;
    plugin.api.function[PJRT_BUFFER_DIMENSIONS].call = dimensions;
    plugin.api.function[PJRT_BUFFER_DESTROY].call = destroy;
    plugin.api.function[PJRT_LOADED_EXECUTE].call = execute;
    plugin.api.function[PJRT_LOADED_EXECUTABLE].call = executable_of;
    plugin.api.function[PJRT_EXECUTABLE_OUTPUT_COUNT].call = count_outputs;
}

/* -- mutations ------------------------------------------------------------------------------------------------------ */

/* Runs an entry point of programs alone on inputs of the sizes it asks for, symbols all `size`. */
static int run(tw_pjrt *p, uint32_t entry, int64_t size) {
    const twp__entry *e = &p->entry[entry];
    static char memory[1 << 22];
    tw_tensor in[8], out[8];
    int64_t symbols[TWP_SYMBOLS];
    tw_error error;
    if (e->input_count > 8 || e->output_count > 8 || e->step_count != 1 || e->step->host != NULL) return 0;
    memset(in, 0, sizeof in);
    memset(out, 0, sizeof out);
    for (int i = 0; i < TWP_SYMBOLS; i++) symbols[i] = size;
    for (uint32_t i = 0; i < e->input_count; i++) {
        int64_t bytes;
        in[i] = (tw_tensor){memory, sizeof memory, e->input[i].dtype, e->input[i].rank, {0}};
        for (int32_t d = 0; d < in[i].rank; d++)
            if (twp__evaluate(e->slot[i].dim[d], symbols, &in[i].dim[d]) != 1) in[i].dim[d] = 1;
        if (!twp__bytes(e->slot[i].dtype, in[i].dim, in[i].rank, &bytes) || bytes > (int64_t)sizeof memory) return 0;
    }
    running_entry = e;
    running = e->step;
    for (uint32_t v = 0; v < e->step->variant_count; v++) e->step->variant[v].loaded = (pjrt_loaded *)(void *)&e->step->variant[v];
    int32_t code = tw_pjrt_run(p, entry, in, e->input_count, out, e->output_count, &error);
    for (uint32_t i = 0; i < 8; i++) free(out[i].data);
    return code == TW_OK;
}

/* Puts `piece` in place of `old` bytes at `at`. */
static void replace(char *text, uint64_t *bytes, uint64_t at, uint64_t old, const char *piece) {
    uint64_t length = strlen(piece);
    memmove(text + at + length, text + at + old, *bytes - at - old);
    memcpy(text + at, piece, length);
    *bytes += length - old;
}

/* One to three changes: mostly a token for another, so that what comes out is read further. */
static void mutate(char *text, uint64_t *bytes) {
    static const char *const pieces[] = {"\"$N\"", "[1]", "-1", "9223372036854775807", "\"*\"", "\"//\"", "0", "{}", "[]", "\"w\"", "[4]", "1",
                                         "4294967296", "\"min\"", "\"bool\"", "\"u4\"", "2", "3", "12", "[[1,\"$N\",\"*\"]]", "[0,1]",
                                             "\"%\"", "\"i64\""};
    for (uint64_t n = 1 + next_random() % 3; n > 0 && *bytes > 8; n--) {
        uint64_t at = next_random() % *bytes, end, kind = next_random() % 8;
        if (kind == 0) text[at] = (char)next_random();
        else if (kind == 1) replace(text, bytes, at, *bytes - at < 4 ? *bytes - at : 4, "");
        else {
            while (at > 0 && strchr(",[:", text[at - 1]) == NULL) at--;
            for (end = at; end < *bytes && strchr(",]}:", text[end]) == NULL;) end++;
            replace(text, bytes, at, end - at, pieces[next_random() % (sizeof pieces / sizeof *pieces)]);
        }
    }
}

int main(int count, char **arguments) {
    uint64_t times = strtoull(arguments[2], NULL, 10), refused = 0, read = 0, ran = 0;
    (void)count;
    state = strtoull(arguments[3], NULL, 10) | 1;
    make_plugin();
    for (uint64_t i = 0; i < times; i++) {
        tw_error error;
        tw__span text;
        tw_pjrt *p = twp__new_model(&error);
        FILE *file = fopen(arguments[1], "rb");
        int32_t code = tw__read_file(p->m, fileno(file), arguments[1], 1, &error);
        fclose(file);
        p->threads = 1;
        if (code == TW_OK) code = twp__open_artifact(p, &error);
        snprintf(p->report.platform, sizeof p->report.platform, "cpu");
        if (code == TW_OK) code = twp__choose_target(p, NULL, &error);
        if (code == TW_OK) code = twp__member(p, "program.json", &text, &error);
        if (code != TW_OK) return puts(error.text), 1;
        uint64_t bytes = text.bytes;
        char *copy = calloc(1, (size_t)bytes + 256);
        memcpy(copy, text.data, (size_t)bytes);
        if (i > 0) mutate(copy, &bytes);
        code = twp__parse(p, copy, bytes, &error);
        free(copy);
        p->api = &plugin.api;
        if (code == TW_OK) {
            read++;
            for (uint32_t e = 0; e < p->entry_count; e++)
                for (int64_t size = 0; size < 14; size += 3) ran += (uint64_t)run(p, e, size);
        } else if (code == TW_ARTIFACT) {
            refused++;
        }
        tw_pjrt_close(p);
        if (alive != 0) return printf("%lld buffers were left\n", (long long)alive), 1;
    }
    printf("refused %llu read %llu ran %llu\n", (unsigned long long)refused, (unsigned long long)read, (unsigned long long)ran);
    return 0;
}
