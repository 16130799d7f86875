/* Reads modules.bin, the machine code of a part for a GPU. Every length and index is checked; hostile bytes only fail. */
#include <inttypes.h>
#include <string.h>

#include "device.h"

#define MODULES_MAGIC 0x444D5754u /* "TWMD" */
#define MODULES_VERSION 1u
#define FIXED_WORDS 15u
#define THREADS_MOST 1024u        /* of a block, by the CUDA programming guide's table of limits */
#define EM_CUDA 190               /* ELF machine number */

typedef struct {
    uint32_t magic, version, arch, kernel_count, word_count, string_bytes;
    uint64_t blob_bytes;
} Header;

typedef struct {
    const unsigned char *blobs;
    uint64_t blob_bytes;
    const char *strings;
    uint32_t string_bytes;
} Contents;

#define REFUSE(...) return twr_fail(error, TW_ARTIFACT, __VA_ARGS__)

static uint64_t wide(const uint32_t *w) { return (uint64_t)w[0] | (uint64_t)w[1] << 32; }

/* A piece of the blobs; NULL and no bytes where there is none. */
static bool take_blob(const Contents *c, const uint32_t *w, const void **data, uint64_t *bytes) {
    uint64_t offset = wide(w);
    *bytes = wide(w + 2);
    if (offset > c->blob_bytes || *bytes > c->blob_bytes - offset) return false;
    *data = *bytes > 0 ? c->blobs + offset : NULL;
    return true;
}

static uint64_t field(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

/* The driver is told no length: an ELF file whose tables or sections reach past its end must not get to it. */
static bool is_whole_elf(const unsigned char *p, uint64_t bytes) {
    if (bytes < 64 || memcmp(p, "\x7f" "ELF\2\1", 6) != 0 || field(p + 18, 2) != EM_CUDA) return false;
    uint64_t segments = field(p + 32, 8), sections = field(p + 40, 8);
    uint64_t segment_count = field(p + 56, 2), section_count = field(p + 60, 2);
    if (segment_count > 0 && (field(p + 54, 2) != 56 || segments > bytes || segment_count * 56 > bytes - segments)) return false;
    if (section_count > 0 && (field(p + 58, 2) != 64 || sections > bytes || section_count * 64 > bytes - sections)) return false;
    for (uint64_t i = 0; i < segment_count; i++) {
        const unsigned char *s = p + segments + 56 * i;
        if (field(s + 8, 8) > bytes || field(s + 32, 8) > bytes - field(s + 8, 8)) return false;
    }
    for (uint64_t i = 0; i < section_count; i++) {
        const unsigned char *s = p + sections + 64 * i;
        if (field(s + 4, 4) == 8) continue; /* SHT_NOBITS: no bytes in the file */
        if (field(s + 24, 8) > bytes || field(s + 32, 8) > bytes - field(s + 24, 8)) return false;
    }
    return section_count > 0;
}

/* Kinds of parameters, and how many buffers and dimensions they ask of a launch. */
static bool check_parameters(Kernel *k) {
    uint32_t seen = 0;
    for (uint32_t i = 0; i < k->param_count; i++) {
        uint32_t kind = k->params[i] & 255, index = k->params[i] >> 8;
        if (kind >= PARAM_COUNT) return false;
        seen |= 1u << kind;
        if (kind == PARAM_BUFFER && index >= k->buffers) k->buffers = index + 1;
        else if ((kind == PARAM_DIM32 || kind == PARAM_DIM64) && index >= k->dims) k->dims = index + 1;
        else if (kind >= PARAM_GLOBAL && index != 0) return false;
    }
    bool needs = (k->global_bytes == 0 || seen >> PARAM_GLOBAL & 1) && (k->profile_bytes == 0 || seen >> PARAM_PROFILE & 1) &&
                 (k->counter_bytes == 0 || seen >> PARAM_WORKSPACE & 1);
    return needs;
}

static int32_t read_kernel(const Contents *c, Kernel *k, const uint32_t **at, const uint32_t *end, uint32_t i, tw_error *error) {
    const uint32_t *w = *at;
    if ((uint64_t)(end - w) < FIXED_WORDS) REFUSE("modules.bin: kernel %u is cut short", i);
    k->param_count = w[14];
    if (w[0] >= c->string_bytes || k->param_count > PARAMETER_LIMIT || k->param_count > (uint64_t)(end - w) - FIXED_WORDS)
        REFUSE("modules.bin: kernel %u is malformed", i);
    k->entry = c->strings + w[0];
    k->threads = w[1];
    k->shared = w[2];
    k->global_bytes = w[3];
    k->profile_bytes = w[4];
    k->counter_bytes = w[5];
    k->params = w + FIXED_WORDS;
    *at = k->params + k->param_count;
    if (k->threads < 1 || k->threads > THREADS_MOST || k->shared > INT32_MAX || k->global_bytes > INT32_MAX || k->profile_bytes > INT32_MAX)
        REFUSE("modules.bin: kernel '%s' asks for %u threads and %u bytes of shared memory", k->entry, k->threads, k->shared);
    if (!check_parameters(k)) REFUSE("modules.bin: the parameters of kernel '%s' are malformed", k->entry);
    if (!take_blob(c, w + 6, &k->cubin, &k->cubin_bytes) || !take_blob(c, w + 10, &k->ptx, &k->ptx_bytes))
        REFUSE("modules.bin: the code of kernel '%s' lies outside", k->entry);
    if (k->cubin != NULL && !is_whole_elf(k->cubin, k->cubin_bytes)) REFUSE("modules.bin: the code of kernel '%s' is damaged", k->entry);
    return TW_OK;
}

/* Fills the device's kernels and architecture; `count` says how many there are. */
int32_t twr_read_modules(tw_plan *plan, Device *device, const void *data, uint64_t bytes, uint32_t *count, tw_error *error) {
    Header h;
    if (data == NULL || bytes < sizeof h) REFUSE("modules.bin is truncated");
    memcpy(&h, data, sizeof h);
    if (h.magic != MODULES_MAGIC) REFUSE("modules.bin is none: its first bytes are wrong");
    if (h.version != MODULES_VERSION) REFUSE("modules.bin has version %u, this runtime reads %u", h.version, MODULES_VERSION);
    uint64_t blobs = (sizeof h + (uint64_t)h.word_count * 4 + h.string_bytes + 63) / 64 * 64;
    if (blobs > bytes || h.blob_bytes != bytes - blobs) {
        /* without blobs there is nothing to align for */
        if (h.blob_bytes != 0 || sizeof h + (uint64_t)h.word_count * 4 + h.string_bytes != bytes) REFUSE("modules.bin is truncated or damaged");
        blobs = bytes;
    }
    if ((uint64_t)h.kernel_count * FIXED_WORDS > h.word_count) REFUSE("modules.bin is damaged: it names too many kernels");
    uint32_t *words = twr_own(plan, h.word_count, 4);
    char *strings = twr_own(plan, h.string_bytes, 1);
    device->kernels = twr_own(plan, h.kernel_count, sizeof *device->kernels);
    if (words == NULL || strings == NULL || device->kernels == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the modules");
    if (h.word_count) memcpy(words, (const char *)data + sizeof h, (size_t)h.word_count * 4);
    if (h.string_bytes) memcpy(strings, (const char *)data + sizeof h + (size_t)h.word_count * 4, h.string_bytes);
    if (h.string_bytes > 0 && strings[h.string_bytes - 1] != 0) REFUSE("modules.bin is damaged: its strings do not end");
    Contents c = {(const unsigned char *)data + blobs, h.blob_bytes, strings, h.string_bytes};
    const uint32_t *at = words, *end = words + h.word_count;
    for (uint32_t i = 0; i < h.kernel_count; i++) {
        int32_t code = read_kernel(&c, &device->kernels[i], &at, end, i, error);
        if (code != TW_OK) return code;
    }
    if (at != end) REFUSE("modules.bin is damaged: it has words too many");
    device->arch = h.arch;
    *count = h.kernel_count;
    return TW_OK;
}

/* Every launch gives its kernel what it takes; marks the kernels that are launched. */
int32_t twr_check_launches(const tw_plan *plan, tw_error *error) {
    Device *device = plan->device;
    for (uint32_t n = 0; n < plan->entry_count; n++) {
        const Entry *e = &plan->entries[n];
        for (uint32_t i = 0; i < e->code_count; i++) {
            const uint32_t *a = e->code[i].arg;
            if (e->code[i].op != OP_LAUNCH) continue;
            Kernel *k = &device->kernels[a[0]];
            if (k->buffers > a[3] || k->dims > a[4])
                REFUSE("entry '%s': instruction %u gives kernel '%s' %u buffers and %u sizes, it takes %u and %u", e->name, i,
                       plan->kernel_names[a[0]], a[3], a[4], k->buffers, k->dims);
            k->used = true;
            for (uint32_t p = 0; p < k->param_count; p++)
                if ((k->params[p] & 255) == PARAM_FAULT) device->faults = true;
        }
    }
    return TW_OK;
}

/* Most workspace and global scratch that the launches of known size ask for. */
int32_t twr_device_sizes(const tw_plan *plan, const Entry *e, Layout *layout, tw_error *error) {
    for (uint32_t i = 0; i < e->code_count; i++) {
        const uint32_t *a = e->code[i].arg;
        if (e->code[i].op != OP_LAUNCH) continue;
        const Kernel *k = &plan->device->kernels[a[0]];
        int64_t global = 0, scratch = e->exprs[a[2]].dynamic ? 0 : layout->value[a[2]];
        int64_t grid = e->exprs[a[1]].dynamic ? 0 : layout->value[a[1]];
        if (grid < 0 || grid > INT32_MAX || scratch < 0 || __builtin_mul_overflow(grid, (int64_t)k->global_bytes + k->profile_bytes, &global))
            REFUSE("entry '%s': kernel '%s' has a malformed grid or scratch", e->name, plan->kernel_names[a[0]]);
        if (grid == 0) continue;
        if (scratch > layout->scratch_bytes) layout->scratch_bytes = scratch;
        if (global > layout->global_bytes) layout->global_bytes = global;
    }
    return TW_OK;
}
