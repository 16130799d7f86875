/* The table of functions that the runtime library exports, and what a plan keeps between runs. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

static void free_context(tw_plan *plan, Context *context) {
    if (plan->device != NULL) twr_device_forget_stream(plan, context);
    for (int i = 0; i < CALL_LIMIT; i++) {
        free(context->arena[i]);
        free(context->frame[i]);
    }
    free(context->scratch);
    free(context);
}

static Context *take_context(tw_plan *plan) {
    pthread_mutex_lock(&plan->lock);
    Context *context = plan->idle;
    if (context != NULL) {
        plan->idle = context->next;
        plan->idle_count--;
    }
    pthread_mutex_unlock(&plan->lock);
    return context != NULL ? context : calloc(1, sizeof *context);
}

static void give_context(tw_plan *plan, Context *context) {
    pthread_mutex_lock(&plan->lock);
    bool keep = plan->idle_count < CONTEXT_LIMIT;
    if (keep) {
        context->next = plan->idle;
        plan->idle = context;
        plan->idle_count++;
    }
    pthread_mutex_unlock(&plan->lock);
    if (!keep) free_context(plan, context);
}

/* In a forked child: other threads' runs are gone, with whatever they held or were changing. */
void twr_forget_runs(tw_plan *plan) {
    pthread_mutex_init(&plan->lock, NULL);
    plan->idle = NULL;
    plan->idle_count = 0;
    for (uint32_t i = 0; i < plan->entry_count; i++) plan->entries[i].layout_count = 0;
}

static void destroy(tw_plan *plan) {
    if (plan == NULL) return;
    twr_pool_destroy(&plan->pool);
    while (plan->idle != NULL) {
        Context *next = plan->idle->next;
        free_context(plan, plan->idle);
        plan->idle = next;
    }
    for (uint32_t i = 0; i < plan->entry_count; i++)
        for (uint32_t k = 0; k < plan->entries[i].layout_count; k++) free(plan->entries[i].layouts[k]);
    if (plan->device != NULL) twr_device_close(plan);
    for (size_t i = 0; i < plan->owned_count; i++) free(plan->owned[i]);
    free(plan->owned);
    pthread_mutex_destroy(&plan->lock);
    free(plan);
}

static const tw_weight *find_weight(const tw_weights *weights, const char *name) {
    uint32_t low = 0, high = weights->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = strcmp(weights->tensor[middle].name, name);
        if (order == 0) return &weights->tensor[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

static int32_t bind_constants(tw_plan *plan, const tw_weights *weights, tw_error *error) {
    for (uint32_t i = 0; i < plan->constant_count; i++) {
        Constant *constant = &plan->constants[i];
        const tw_weight *weight = weights != NULL ? find_weight(weights, constant->name) : NULL;
        if (weight == NULL) return twr_fail(error, TW_ARTIFACT, "constant '%s' is not among the weights", constant->name);
        if (weight->offset > weights->bytes || weight->bytes > weights->bytes - weight->offset ||
            weight->bytes != (uint64_t)constant->bytes)
            return twr_fail(error, TW_ARTIFACT, "constant '%s' has another size in the weights", constant->name);
        constant->data = (const char *)weights->data + weight->offset;
        if (constant->bytes > 0 && (uintptr_t)constant->data % TW_ALIGNMENT != 0)
            return twr_fail(error, TW_ARTIFACT, "constant '%s' is not aligned to %d bytes", constant->name, TW_ALIGNMENT);
    }
    return TW_OK;
}

static int32_t new_plan(tw_plan **out, int32_t threads, tw_error *error) {
    *out = NULL;
    void *memory = twr_aligned(sizeof(tw_plan)); /* the pool's counters have cache lines of their own */
    if (memory == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the plan");
    tw_plan *plan = memset(memory, 0, sizeof(tw_plan));
    pthread_mutex_init(&plan->lock, NULL);
    if (threads < 1) threads = twr_threads_default();
    if (!twr_pool_create(&plan->pool, threads < THREAD_LIMIT ? threads : THREAD_LIMIT)) {
        destroy(plan);
        return twr_fail(error, TW_RESOURCE, "no memory for %d threads", threads);
    }
    *out = plan;
    return TW_OK;
}

static int32_t finish_plan(tw_plan **out, tw_plan *plan, int32_t code) {
    *out = code == TW_OK ? plan : NULL;
    if (code != TW_OK) destroy(plan);
    return code;
}

static int32_t create(tw_plan **out, const void *data, uint64_t bytes, const tw_weights *weights, const tw_kernel *kernels,
                      uint32_t kernel_count, int32_t threads, tw_error *error) {
    tw_plan *plan;
    int32_t code = new_plan(out, threads, error);
    if (code != TW_OK) return code;
    plan = *out;
    plan->kernels = kernels;
    code = twr_read(plan, data, bytes, kernel_count, 0, false, error);
    if (code == TW_OK) code = bind_constants(plan, weights, error);
    return finish_plan(out, plan, code);
}

static int32_t create_device(tw_plan **out, const void *data, uint64_t bytes, const tw_weights *weights,
                             const tw_device_options *options, tw_error *error) {
    uint32_t kernels = 0;
    *out = NULL;
    if (options == NULL || options->size < sizeof *options) return twr_fail(error, TW_USAGE, "the options have another interface");
    int32_t code = new_plan(out, options->threads, error);
    if (code != TW_OK) return code;
    tw_plan *plan = *out;
    plan->host_kernels = options->host_kernels;
    plan->device = twr_own(plan, 1, sizeof *plan->device);
    if (plan->device == NULL) return finish_plan(out, plan, twr_fail(error, TW_RESOURCE, "no memory for the plan"));
    code = twr_read_modules(plan, plan->device, options->modules, options->module_bytes, &kernels, error);
    if (code == TW_OK) code = twr_read(plan, data, bytes, kernels, options->host_kernels != NULL ? options->host_kernel_count : 0, true, error);
    if (code == TW_OK) code = bind_constants(plan, weights, error);
    if (code == TW_OK) code = twr_check_launches(plan, error);
    if (code == TW_OK) code = twr_device_open(plan, options, error);
    return finish_plan(out, plan, code);
}

/* -- running ------------------------------------------------------------------------------------------------------ */

static int32_t bind_layout(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, uint32_t output_count,
                           Layout **layout, tw_error *error) {
    if (entry >= plan->entry_count) return twr_fail(error, TW_USAGE, "there is no entry point %u", entry);
    Entry *e = &plan->entries[entry];
    if (output_count != e->output_count)
        return twr_fail(error, TW_USAGE, "entry '%s' has %u outputs, got %u", e->name, e->output_count, output_count);
    int64_t few[16], *symbols = few;
    if (e->symbol_count > 16 && (symbols = calloc(e->symbol_count, sizeof *symbols)) == NULL)
        return twr_fail(error, TW_RESOURCE, "no memory for the run");
    int32_t code = twr_bind(e, inputs, input_count, symbols, error);
    if (code == TW_OK) code = twr_layout(plan, e, symbols, layout, error);
    if (symbols != few) free(symbols);
    return code;
}

/* Types, shapes and bytes of outputs as far as they are known; -1 where they are not. */
int32_t twr_describe_outputs(const Entry *e, const Layout *layout, tw_tensor *outputs, tw_error *error) {
    for (uint32_t i = 0; i < e->output_count; i++) {
        const Signature *s = &e->outputs[i];
        outputs[i].dtype = s->text.dtype;
        outputs[i].rank = s->text.rank;
        for (int32_t d = 0; d < s->text.rank; d++)
            outputs[i].dim[d] = e->exprs[s->dim[d]].dynamic ? -1 : layout->value[s->dim[d]];
        outputs[i].bytes = -1;
        if (!s->dynamic && !twr_tensor_bytes(s->text.dtype, outputs[i].dim, s->text.rank, &outputs[i].bytes))
            return twr_fail(error, TW_ARTIFACT, "output '%s' has a negative or too large dimension", s->text.name);
    }
    return TW_OK;
}

static int32_t shapes(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                      uint32_t output_count, int64_t *arena, int64_t *live, tw_error *error) {
    Layout *layout = NULL;
    uint64_t floating_point = twr_pool_enter(plan);
    int32_t code = bind_layout(plan, entry, inputs, input_count, output_count, &layout, error);
    if (code == TW_OK) {
        code = twr_describe_outputs(&plan->entries[entry], layout, outputs, error);
        uint32_t space = plan->device != NULL ? SPACE_DEVICE : SPACE_HOST;
        if (arena != NULL) *arena = layout->arena_bytes[space];
        if (live != NULL) *live = layout->live_bytes[space];
        twr_release_layout(plan, layout);
    }
    twr_pool_leave(plan, floating_point);
    return code;
}

static int32_t check_inputs(const Entry *e, const tw_tensor *inputs, Memory *memory, tw_error *error) {
    static int64_t nothing[TW_ALIGNMENT / 8]; /* where an empty tensor is */
    for (uint32_t i = 0; i < e->input_count; i++) {
        int64_t bytes;
        int32_t width = twr_element_bits(inputs[i].dtype) / 8;
        if (!twr_tensor_bytes(inputs[i].dtype, inputs[i].dim, inputs[i].rank, &bytes) || (inputs[i].data == NULL && bytes > 0))
            return twr_fail(error, TW_USAGE, "input '%s' has no memory", e->inputs[i].text.name);
        memory[i] = (Memory){bytes > 0 ? inputs[i].data : nothing, bytes, false};
        if (width > 1 && (uintptr_t)memory[i].data % (uint32_t)width != 0)
            return twr_fail(error, TW_USAGE, "input '%s' is not aligned to its elements", e->inputs[i].text.name);
    }
    return TW_OK;
}

/* Gives every output of known size memory: the caller's when there is enough, else our own. */
static int32_t place_outputs(const Entry *e, const Layout *layout, tw_tensor *outputs, Memory *memory, tw_error *error) {
    for (uint32_t i = 0; i < e->output_count; i++) memory[i] = (Memory){outputs[i].data, outputs[i].bytes, false};
    int32_t code = twr_describe_outputs(e, layout, outputs, error);
    for (uint32_t i = 0; i < e->output_count && code == TW_OK; i++) {
        int64_t bytes = outputs[i].bytes;
        int32_t width = twr_element_bits(outputs[i].dtype) / 8;
        if (memory[i].data == NULL && bytes >= 0) {
            memory[i] = (Memory){twr_aligned((size_t)bytes), bytes, true};
            if (memory[i].data == NULL)
                code = twr_fail(error, TW_RESOURCE, "no memory for output '%s'", e->outputs[i].text.name);
        } else if (memory[i].data != NULL && memory[i].bytes < bytes) {
            code = twr_fail(error, TW_USAGE, "output '%s' needs %lld bytes, the memory given has %lld", e->outputs[i].text.name,
                            (long long)bytes, (long long)memory[i].bytes);
        } else if (width > 1 && (uintptr_t)memory[i].data % (uint32_t)width != 0) {
            code = twr_fail(error, TW_USAGE, "output '%s' is not aligned to its elements", e->outputs[i].text.name);
        }
    }
    return code;
}

static int32_t run_bound(tw_plan *plan, uint32_t entry, Layout *layout, const tw_tensor *inputs, tw_tensor *outputs, Memory *memory,
                         Context *context) {
    Entry *e = &plan->entries[entry];
    int64_t few[4][TW_MAX_RANK], (*dims)[TW_MAX_RANK] = few;
    Memory *out = memory + e->input_count;
    if (e->output_count > 4 && (dims = calloc(e->output_count, sizeof *dims)) == NULL)
        return twr_fail(context->error, TW_RESOURCE, "no memory for the run");
    int32_t code = check_inputs(e, inputs, memory, context->error);
    if (code == TW_OK) {
        code = place_outputs(e, layout, outputs, out, context->error);
        if (code == TW_OK) code = twr_execute(plan, context, entry, layout, 0, memory, out, dims);
        for (uint32_t i = 0; i < e->output_count; i++) {
            if (code != TW_OK && out[i].owned) {
                free(out[i].data);
                out[i].data = NULL;
            }
            outputs[i].data = out[i].data;
            if (code != TW_OK) continue;
            memcpy(outputs[i].dim, dims[i], sizeof dims[i]);
            twr_tensor_bytes(outputs[i].dtype, dims[i], outputs[i].rank, &outputs[i].bytes);
        }
    }
    if (dims != few) free(dims);
    return code;
}

static int32_t run_here(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                        uint32_t output_count, tw_profile *profile, tw_error *error) {
    Layout *layout = NULL;
    uint64_t floating_point = twr_pool_enter(plan);
    int32_t code = bind_layout(plan, entry, inputs, input_count, output_count, &layout, error);
    if (code == TW_OK) {
        Context *context = take_context(plan);
        Memory *memory = calloc((size_t)input_count + output_count + 1, sizeof *memory);
        if (context == NULL || memory == NULL) {
            code = twr_fail(error, TW_RESOURCE, "no memory for the run");
        } else {
            context->budget = BUDGET;
            context->profile = profile;
            context->error = error;
            if (profile != NULL) profile->count = 0;
            code = run_bound(plan, entry, layout, inputs, outputs, memory, context);
        }
        free(memory);
        if (context != NULL) give_context(plan, context);
        twr_release_layout(plan, layout);
    }
    twr_pool_leave(plan, floating_point);
    return code;
}

/* -- running on a device ------------------------------------------------------------------------------------------ */

static int32_t start_device(tw_pending *p, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                            uint32_t output_count, const tw_run_options *options, tw_error *error) {
    tw_plan *plan = p->plan;
    Layout *layout = NULL;
    int32_t code = bind_layout(plan, entry, inputs, input_count, output_count, &layout, error);
    if (code != TW_OK) return code;
    p->entry = plan->entries[entry].name;
    p->context = take_context(plan);
    if (p->context == NULL) {
        code = twr_fail(error, TW_RESOURCE, "no memory for the run");
    } else {
        p->context->budget = BUDGET;
        p->context->error = error;
        p->context->profile = options != NULL ? options->profile : NULL;
        if (p->context->profile != NULL) p->context->profile->count = 0;
        code = twr_device_run(p, entry, layout, inputs, outputs, options);
        p->context->error = NULL;
    }
    twr_release_layout(plan, layout);
    return code;
}

static void pending_free(tw_pending *p) {
    if (p == NULL) return;
    if (p->context != NULL) give_context(p->plan, p->context);
    free(p->deliveries);
    free(p);
}

static int32_t wait_for(tw_pending *p, tw_error *error) {
    if (!p->finished) {
        p->code = twr_device_enter(p->plan, &p->error);
        if (p->code == TW_OK) {
            p->code = twr_device_wait(p, &p->error);
            twr_device_leave(p->plan);
        }
        p->finished = true;
    }
    if (p->code != TW_OK && error != NULL) *error = p->error;
    return p->code;
}

static int32_t done(tw_pending *p, tw_error *error) {
    if (p->finished) {
        if (p->code != TW_OK && error != NULL) *error = p->error;
        return p->code == TW_OK ? 1 : -p->code;
    }
    int32_t code = twr_device_enter(p->plan, error);
    if (code != TW_OK) return -code;
    code = twr_device_done(p, error);
    twr_device_leave(p->plan);
    return code;
}

static int32_t run_async(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                         uint32_t output_count, const tw_run_options *options, tw_pending **out, tw_error *error) {
    *out = NULL;
    if (options != NULL && options->size < sizeof *options) return twr_fail(error, TW_USAGE, "the options have another interface");
    tw_profile *profile = options != NULL ? options->profile : NULL;
    tw_pending *p = calloc(1, sizeof *p);
    if (p == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the run");
    p->plan = plan;
    p->seconds = -1;
    int32_t code;
    if (plan->device == NULL) {
        code = run_here(plan, entry, inputs, input_count, outputs, output_count, profile, error);
        p->finished = true;
    } else if ((code = twr_device_enter(plan, error)) == TW_OK) {
        uint64_t floating_point = twr_pool_enter(plan);
        code = start_device(p, entry, inputs, input_count, outputs, output_count, options, error);
        twr_pool_leave(plan, floating_point);
        twr_device_leave(plan);
    }
    if (code != TW_OK) {
        pending_free(p);
        return code;
    }
    *out = p;
    return TW_OK;
}

/* Frees what a run allocated for outputs that it then failed to fill; `given` is what the caller had there. */
static int32_t run(tw_plan *plan, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs,
                   uint32_t output_count, tw_profile *profile, tw_error *error) {
    if (plan->device == NULL) return run_here(plan, entry, inputs, input_count, outputs, output_count, profile, error);
    tw_run_options options = {sizeof options, 0, NULL, NULL, profile};
    tw_pending *p;
    bool few[64], *given = output_count <= 64 ? few : calloc(output_count, sizeof *given);
    if (given == NULL) return twr_fail(error, TW_RESOURCE, "no memory for the run");
    for (uint32_t i = 0; i < output_count; i++) given[i] = outputs[i].data != NULL;
    int32_t code = run_async(plan, entry, inputs, input_count, outputs, output_count, &options, &p, error);
    if (code == TW_OK) {
        code = wait_for(p, error);
        pending_free(p);
        for (uint32_t i = 0; i < output_count && code != TW_OK; i++) {
            if (given[i]) continue;
            free(outputs[i].data);
            outputs[i].data = NULL;
        }
    }
    if (given != few) free(given);
    return code;
}

static void *pending_event(tw_pending *p) { return p->context != NULL ? p->context->stream->end : NULL; }
static double pending_seconds(tw_pending *p) { return p->seconds; }

static void release_device(tw_plan *plan, void *data) {
    if (plan->device == NULL || data == NULL || twr_device_enter(plan, NULL) != TW_OK) return;
    twr_device_synchronize(plan);
    twr_device_release(plan, NULL, data);
    twr_device_leave(plan);
}

static int32_t device_info(tw_plan *plan, tw_device_use *use, tw_error *error) {
    Device *device = plan->device;
    if (device == NULL) return twr_fail(error, TW_USAGE, "the plan runs on the CPU");
    if (use->size < sizeof *use) return twr_fail(error, TW_USAGE, "the structure has another interface");
    int32_t code = twr_device_enter(plan, error);
    if (code != TW_OK) return code;
    tw_device_use found = {.size = sizeof found, .kernels = device->kernel_count, .jit_kernels = device->jit_count,
                           .weight_bytes = device->weight_bytes, .load_seconds = device->load_seconds,
                           .jit_seconds = device->jit_seconds, .direct = device->direct, .captured = device->captured,
                           .replayed = device->replayed};
    twr_device_free_memory(plan, &found.device);
    twr_device_leave(plan);
    pthread_mutex_lock(&plan->lock);
    for (const Context *c = plan->idle; c != NULL; c = c->next) {
        if (c->stream == NULL) continue;
        found.contexts++;
        found.graphs += (int32_t)twr_stream_graphs(c->stream);
        found.context_bytes += twr_stream_bytes(c->stream);
    }
    pthread_mutex_unlock(&plan->lock);
    *use = found;
    return TW_OK;
}

/* -- the table ---------------------------------------------------------------------------------------------------- */

static void release(void *data) { free(data); }
static int32_t threads_of(const tw_plan *plan) { return plan->pool.threads; }
static uint32_t entry_count(const tw_plan *plan) { return plan->entry_count; }
static const char *entry_name(const tw_plan *plan, uint32_t i) { return i < plan->entry_count ? plan->entries[i].name : NULL; }
static uint32_t kernel_count(const tw_plan *plan) { return plan->kernel_count + plan->host_count; }
static const char *kernel_name(const tw_plan *plan, uint32_t i) {
    if (i < plan->kernel_count) return plan->kernel_names[i];
    return i - plan->kernel_count < plan->host_count ? plan->host_names[i - plan->kernel_count] : NULL;
}
static uint32_t input_count(const tw_plan *plan, uint32_t e) { return e < plan->entry_count ? plan->entries[e].input_count : 0; }
static uint32_t output_count(const tw_plan *plan, uint32_t e) { return e < plan->entry_count ? plan->entries[e].output_count : 0; }
static const tw_signature *input(const tw_plan *plan, uint32_t e, uint32_t i) {
    return i < input_count(plan, e) ? &plan->entries[e].inputs[i].text : NULL;
}
static const tw_signature *output(const tw_plan *plan, uint32_t e, uint32_t i) {
    return i < output_count(plan, e) ? &plan->entries[e].outputs[i].text : NULL;
}

extern const tw_runtime tw_runtime_v1;
TW_KERNEL_EXPORT const tw_runtime tw_runtime_v1 = {
    TW_ABI_VERSION, sizeof(tw_runtime), twr_cpu_has,  twr_threads_default, twr_cpu_quota, twr_check_crc, create,  destroy, threads_of,
    entry_count,    entry_name,         kernel_count, kernel_name,         input_count,   output_count,  input, output,  shapes,
    run,            release,            twr_device_count, twr_device_describe, twr_device_runs, create_device, device_info,
    run_async,      done,               wait_for,     pending_event,       pending_seconds, pending_free, release_device,
};
