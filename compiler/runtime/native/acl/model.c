/* Opens the project's plan and weights and runs them by the executor. */
#include "model.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/launches.h"
#include "tables.h"

extern const tw_runtime tw_runtime_v1;

typedef struct {
    void *data;
    uint64_t bytes;
} File;

struct model {
    tw_plan *plan;
    File weights;
};

static int32_t fail(tw_error *error, int32_t code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    error->code = code;
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    return code;
}

/* Maps a file of the project's data; an empty one has no memory. */
static int32_t map(const char *folder, const char *name, File *file, tw_error *error) {
    char path[4096];
    struct stat about;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return fail(error, TW_USAGE, "the path is too long");
    int handle = open(path, O_RDONLY);
    if (handle < 0 || fstat(handle, &about) != 0) {
        if (handle >= 0) close(handle);
        return fail(error, TW_USAGE, "%s cannot be opened: name the folder with the model's data (--data)", path);
    }
    file->bytes = (uint64_t)about.st_size;
    file->data = about.st_size > 0 ? mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, handle, 0) : NULL;
    close(handle);
    if (file->data != MAP_FAILED) return TW_OK;
    file->data = NULL;
    return fail(error, TW_RESOURCE, "%s cannot be mapped", path);
}

static void unmap(File *file) {
    if (file->data != NULL) munmap(file->data, (size_t)file->bytes);
    file->data = NULL;
}

static int32_t check_weights(const File *weights, const File *sums, tw_error *error) {
    if (weights->bytes != tw_weight_bytes || sums->bytes != (weights->bytes + 4095) / 4096 * 4)
        return fail(error, TW_ARTIFACT, "weights.bin has %llu bytes, this program was made for %llu: take both from one export",
                    (unsigned long long)weights->bytes, (unsigned long long)tw_weight_bytes);
    int64_t bad = weights->bytes > 0 ? tw_runtime_v1.check_crc(weights->data, weights->bytes, sums->data, 1) : -1;
    return bad < 0 ? TW_OK : fail(error, TW_ARTIFACT, "weights.bin is damaged from byte %lld on", (long long)bad * 4096);
}

static int32_t make_plan(model *m, const File *plan, int32_t device, int32_t threads, tw_error *error) {
    tw_weights weights = {m->weights.data, m->weights.bytes, tw_weight_table, tw_weight_count};
    tw_device_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.device = device;
    options.threads = threads;
    options.modules = &tw_launch_table;
    options.module_bytes = sizeof tw_launch_table;
    options.host_kernels = tw_host_kernels;
    options.host_kernel_count = tw_host_kernel_count;
    return tw_runtime_v1.create_device(&m->plan, plan->data, plan->bytes, &weights, &options, error);
}

int32_t model_open(model **opened, const char *folder, int32_t device, int32_t threads, tw_error *error) {
    tw_error unheard;
    File plan = {NULL, 0}, sums = {NULL, 0};
    if (error == NULL) error = &unheard;
    model *m = *opened = calloc(1, sizeof *m);
    if (m == NULL) return fail(error, TW_RESOURCE, "no memory for the model");
    int32_t code = map(folder, "plan.bin", &plan, error);
    if (code == TW_OK) code = map(folder, "weights.bin", &m->weights, error);
    if (code == TW_OK) code = map(folder, "weights.crc32c", &sums, error);
    if (code == TW_OK) code = check_weights(&m->weights, &sums, error);
    if (code == TW_OK) code = make_plan(m, &plan, device, threads, error);
    unmap(&plan);
    unmap(&sums);
    if (code == TW_OK) return TW_OK;
    *opened = NULL;
    model_close(m);
    return code;
}

int32_t model_entry(const model *m, const char *name) {
    for (uint32_t i = 0; i < tw_runtime_v1.entry_count(m->plan); i++)
        if (strcmp(tw_runtime_v1.entry_name(m->plan, i), name) == 0) return (int32_t)i;
    return -1;
}

uint32_t model_input_count(const model *m, uint32_t entry) { return tw_runtime_v1.input_count(m->plan, entry); }
uint32_t model_output_count(const model *m, uint32_t entry) { return tw_runtime_v1.output_count(m->plan, entry); }
const tw_signature *model_input(const model *m, uint32_t entry, uint32_t index) { return tw_runtime_v1.input(m->plan, entry, index); }
const tw_signature *model_output(const model *m, uint32_t entry, uint32_t index) { return tw_runtime_v1.output(m->plan, entry, index); }

int32_t model_run(model *m, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs, uint32_t output_count,
                  tw_error *error) {
    return tw_runtime_v1.run(m->plan, entry, inputs, input_count, outputs, output_count, NULL, error);
}

void model_free(model *m, void *data) {
    (void)m;
    tw_runtime_v1.release(data);
}

void model_close(model *m) {
    if (m == NULL) return;
    tw_runtime_v1.destroy(m->plan);
    unmap(&m->weights);
    free(m);
}
