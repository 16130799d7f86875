/* The model of this project: open it, run it on tensors of the host, close it. Link with libmodel.
 *
 *     model *m;
 *     tw_error error;
 *     if (model_open(&m, "data", 0, 0, &error) != TW_OK) return puts(error.text), error.code;
 *     tw_tensor x = {data, bytes, 1, 2, {8, 384}}, y = {0};
 *     model_run(m, 0, &x, 1, &y, 1, &error);  …  model_free(m, y.data);  model_close(m);
 *
 * Types, codes and the rules for tensors are those of tilewright.h: `dtype` is the ONNX number, outputs without memory are
 * given some. Runs of one model may be started by several threads; each has a stream of its own. */
#ifndef MODEL_H
#define MODEL_H

#include "runtime/tilewright.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct model model;

/* `folder` holds plan.bin and weights.bin; `device` is a number as npu-smi counts them; `threads`: of steps on the host, 0
 * for what this process may use. Weights are on the device when this returns.
 * TW_DEVICE: no device, or acl failed; TW_RESOURCE: not enough memory; TW_ARTIFACT: the files are damaged or of another export. */
int32_t model_open(model **opened, const char *folder, int32_t device, int32_t threads, tw_error *error);
/* Index of an entry point by name, or -1; the first is 0. */
int32_t model_entry(const model *m, const char *name);
uint32_t model_input_count(const model *m, uint32_t entry);
uint32_t model_output_count(const model *m, uint32_t entry);
const tw_signature *model_input(const model *m, uint32_t entry, uint32_t index);
const tw_signature *model_output(const model *m, uint32_t entry, uint32_t index);
/* Runs to the end. An output that is the new value of a state may be given the memory of the input. */
int32_t model_run(model *m, uint32_t entry, const tw_tensor *inputs, uint32_t input_count, tw_tensor *outputs, uint32_t output_count,
                  tw_error *error);
/* Memory that model_run gave to an output. */
void model_free(model *m, void *data);
/* Ends a model that no thread is running. */
void model_close(model *m);

#ifdef __cplusplus
}
#endif
#endif
