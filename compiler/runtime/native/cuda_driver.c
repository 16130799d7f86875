/* Opens NVIDIA's driver library and finds its functions by name. */
#include <dlfcn.h>
#include <string.h>

#include "executor.h"
#include "cuda_driver.h"

#define LIBRARY "libcuda.so.1"

static int32_t find_functions(Driver *d, const char *name, tw_error *error) {
    void *found;
    /* POSIX has it that an address from dlsym may be used as a function; memcpy, since C knows no such cast. */
#define FIND(function, parameters)                                                                                        \
    if ((found = dlsym(d->library, #function)) == NULL)                                                                   \
        return twr_fail(error, TW_DEVICE, "%s has no %s: it is older than CUDA %d.%d, the least that this runtime can use", name, \
                        #function, DRIVER_LEAST / 1000, DRIVER_LEAST % 1000 / 10);                                        \
    memcpy(&d->function, &found, sizeof found);
    CUDA_FUNCTIONS(FIND)
#undef FIND
#define FIND(function, parameters)             \
    found = dlsym(d->library, #function);      \
    memcpy(&d->function, &found, sizeof found);
    CUDA_OPTIONAL_FUNCTIONS(FIND)
#undef FIND
    return TW_OK;
}

static int32_t check_version(Driver *d, int32_t needed, tw_error *error) {
    CUDA(d, error, cuDriverGetVersion, "", &d->version);
    if (needed < DRIVER_LEAST) needed = DRIVER_LEAST;
    if (d->version >= needed) return TW_OK;
    return twr_fail(error, TW_DEVICE,
                    "the NVIDIA driver here supports CUDA %d.%d, this code needs %d.%d: install a newer driver", d->version / 1000,
                    d->version % 1000 / 10, needed / 1000, needed % 1000 / 10);
}

/* Opens `library` (NULL: the system's), which must support CUDA `needed` and have a GPU. */
int32_t twr_driver_open(Driver *d, const char *library, int32_t needed, tw_error *error) {
    const char *name = library != NULL && *library != 0 ? library : LIBRARY;
    memset(d, 0, sizeof *d);
    /* It stays: a driver that was started is not made to be unloaded. */
    d->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (d->library == NULL) {
        const char *why = dlerror();
        return twr_fail(error, TW_DEVICE, "no NVIDIA driver: tried to open %s (%s); install one, or run the model on the CPU", name,
                        why != NULL ? why : "no reason given");
    }
    int32_t code = find_functions(d, name, error);
    CUresult result = code == TW_OK ? d->cuInit(0) : CUDA_SUCCESS;
    if (result == CUDA_ERROR_NO_DEVICE)
        code = twr_fail(error, TW_DEVICE, "the NVIDIA driver (%s) sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES", name);
    else if (result != CUDA_SUCCESS)
        code = twr_driver_fail(d, result, "cuInit", name, error);
    if (code == TW_OK) code = check_version(d, needed, error);
    if (code != TW_OK) twr_driver_close(d);
    return code;
}

void twr_driver_close(Driver *d) {
    if (d->library != NULL) dlclose(d->library);
    d->library = NULL;
}

int32_t twr_driver_fail(const Driver *d, CUresult result, const char *call, const char *about, tw_error *error) {
    const char *name = NULL, *text = NULL;
    if (d->cuGetErrorName(result, &name) != CUDA_SUCCESS || name == NULL) name = "an unknown error";
    if (d->cuGetErrorString(result, &text) != CUDA_SUCCESS || text == NULL) text = "no text";
    bool said = about != NULL && *about != 0;
    return twr_fail(error, result == CUDA_ERROR_OUT_OF_MEMORY ? TW_RESOURCE : TW_DEVICE, "%s failed%s%s%s: %s (%d): %s", call,
                    said ? " (" : "", said ? about : "", said ? ")" : "", name, result, text);
}
