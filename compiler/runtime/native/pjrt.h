/* The part of PJRT's C interface that tilewright_pjrt.h calls: layouts of arguments and places in the table of functions.
 *
 * A plugin (libtpu.so, …) exports GetPjrtApi, which returns a pjrt_api. Every function takes one pointer to its arguments,
 * which begin with their size as the caller knows them, and returns an error or NULL. Versions of one major number only
 * append: to the table, whose length is `size`, and to arguments. Layouts here are those of 0.113; a test compares them
 * with OpenXLA's own header where that is installed. Fields that a function fills are marked `out`.
 */
#ifndef TILEWRIGHT_PJRT_ABI_H
#define TILEWRIGHT_PJRT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define PJRT_MAJOR 0

typedef struct pjrt_error pjrt_error;
typedef struct pjrt_event pjrt_event;
typedef struct pjrt_client pjrt_client;
typedef struct pjrt_device pjrt_device;
typedef struct pjrt_description pjrt_description;
typedef struct pjrt_memory pjrt_memory;
typedef struct pjrt_buffer pjrt_buffer;
typedef struct pjrt_executable pjrt_executable;
typedef struct pjrt_loaded pjrt_loaded; /* an executable on its devices */

typedef pjrt_error *(*pjrt_function)(void *arguments);
typedef union {
    pjrt_function call;
    void (*tell)(void *arguments); /* the two that return nothing */
} pjrt_entry;

typedef struct {
    size_t size;
    void *extensions;
    struct {
        size_t size;
        void *extensions;
        int32_t major, minor;
    } version;
    pjrt_entry function[]; /* by the numbers below */
} pjrt_api;

enum {
    PJRT_ERROR_DESTROY = 0, /* tell */
    PJRT_ERROR_MESSAGE = 1, /* tell */
    PJRT_ERROR_CODE = 2,
    PJRT_PLUGIN_INITIALIZE = 3,
    PJRT_EVENT_DESTROY = 5,
    PJRT_EVENT_AWAIT = 8,
    PJRT_CLIENT_CREATE = 10,
    PJRT_CLIENT_DESTROY = 11,
    PJRT_CLIENT_PLATFORM_NAME = 12,
    PJRT_CLIENT_PLATFORM_VERSION = 14,
    PJRT_CLIENT_ADDRESSABLE_DEVICES = 16,
    PJRT_CLIENT_COMPILE = 20,
    PJRT_CLIENT_BUFFER_FROM_HOST = 22,
    PJRT_DESCRIPTION_KIND = 26,
    PJRT_DEVICE_DESCRIPTION = 29,
    PJRT_EXECUTABLE_DESTROY = 40,
    PJRT_EXECUTABLE_OUTPUT_COUNT = 44,
    PJRT_EXECUTABLE_SERIALIZE = 49,
    PJRT_LOADED_DESTROY = 50,
    PJRT_LOADED_EXECUTABLE = 51,
    PJRT_LOADED_EXECUTE = 55,
    PJRT_DESERIALIZE = 56,
    PJRT_BUFFER_DESTROY = 58,
    PJRT_BUFFER_TYPE = 59,
    PJRT_BUFFER_DIMENSIONS = 60,
    PJRT_BUFFER_TO_HOST = 70
};

/* What several functions need: one object. */
typedef struct {
    size_t size;
    void *extensions, *object;
} pjrt_object_args;

/* A text of an object, `out`, owned by it. Also: the dimensions of a buffer, the devices of a client. */
typedef struct {
    size_t size;
    void *extensions;
    const void *object;
    const void *data; /* out */
    size_t count;     /* out */
} pjrt_list_args;

/* An object of an object, `out`; also an output count. */
typedef struct {
    size_t size;
    void *extensions, *object;
    void *result; /* out */
} pjrt_result_args;

/* A small number of an object, `out`: the code of an error, the element type of a buffer. */
typedef struct {
    size_t size;
    void *extensions;
    const void *object;
    int32_t number; /* out */
} pjrt_number_args;

typedef struct {
    size_t size;
    void *extensions;
} pjrt_initialize_args;

enum { PJRT_NAMED_INTEGER = 1 };

/* An option of a client. */
typedef struct {
    size_t size;
    void *extensions;
    const char *name;
    size_t name_size;
    int32_t type;
    int64_t integer; /* a union in PJRT */
    size_t value_size;
} pjrt_named;

typedef struct {
    size_t size;
    void *extensions;
    const pjrt_named *options;
    size_t option_count;
    void *key_value[4];  /* callbacks for several processes: none */
    pjrt_client *client; /* out */
    void *key_value_more[2];
} pjrt_create_args;

typedef struct {
    size_t size;
    void *extensions;
    const char *code;
    size_t code_size;
    const char *format;
    size_t format_size;
} pjrt_program;

typedef struct {
    size_t size;
    void *extensions;
    pjrt_client *client;
    const pjrt_program *program;
    const char *options; /* a CompileOptionsProto */
    size_t options_size;
    pjrt_loaded *loaded; /* out */
} pjrt_compile_args;

/* Element types. */
enum {
    PJRT_PRED = 1,
    PJRT_S8,
    PJRT_S16,
    PJRT_S32,
    PJRT_S64,
    PJRT_U8,
    PJRT_U16,
    PJRT_U32,
    PJRT_U64,
    PJRT_F16,
    PJRT_F32,
    PJRT_F64,
    PJRT_BF16,
    PJRT_F8E5M2 = 16,
    PJRT_F8E4M3FN = 17,
    PJRT_F8E5M2FNUZ = 19,
    PJRT_F8E4M3FNUZ = 20,
    PJRT_F8E8M0FNU = 28
};

/* How long memory of the host is left alone: until its buffer is gone, in which case it may be used in place. */
enum { PJRT_COPIED_IN_CALL = 0, PJRT_IMMUTABLE_ZERO_COPY = 2 };

typedef struct {
    size_t size;
    void *extensions;
    pjrt_client *client;
    const void *data;
    int32_t type;
    const int64_t *dims;
    size_t rank;
    const int64_t *strides; /* in bytes; NULL: row-major */
    size_t stride_count;
    int32_t semantics;
    pjrt_device *device;
    pjrt_memory *memory;
    void *layout;
    pjrt_event *done;    /* out: the memory is no longer used */
    pjrt_buffer *buffer; /* out */
} pjrt_from_host_args;

enum { PJRT_LAYOUT_TILED = 0 };

typedef struct {
    size_t size;
    void *extensions;
    struct { /* a union in PJRT, of which this is the largest */
        size_t size;
        void *extensions;
        const int64_t *minor_to_major;
        size_t rank;
        const int64_t *tile_dims;
        const size_t *tile_ranks;
        size_t tile_count;
    } tiled;
    int32_t type;
} pjrt_layout;

typedef struct {
    size_t size;
    void *extensions;
    pjrt_buffer *buffer;
    const pjrt_layout *layout;
    void *data;
    size_t bytes;
    pjrt_event *event; /* out */
} pjrt_to_host_args;

typedef struct {
    size_t size;
    void *extensions;
    void *send, *receive;
    size_t send_count, receive_count;
    int32_t launch;
    const int64_t *kept; /* arguments that are not donated */
    size_t kept_count;
    void *context;
    const char *location;
    size_t task_count;
    int32_t *tasks;
    int64_t *incarnations;
    void *slices;
    uint8_t major_to_minor;
    void *callbacks;
    size_t callback_count;
} pjrt_execute_options;

typedef struct {
    size_t size;
    void *extensions;
    pjrt_loaded *loaded;
    pjrt_execute_options *options;
    pjrt_buffer *const *const *arguments; /* by device, then argument */
    size_t device_count, argument_count;
    pjrt_buffer **const *outputs; /* by device; the lists are the caller's and are filled */
    pjrt_event **complete;        /* by device, filled */
    pjrt_device *device;
} pjrt_execute_args;

typedef struct {
    size_t size;
    void *extensions;
    const pjrt_executable *executable;
    const char *bytes;  /* out */
    size_t byte_count;  /* out */
    void *owner;        /* out: of the bytes */
    void (*free)(void *owner); /* out */
} pjrt_serialize_args;

typedef struct {
    size_t size;
    void *extensions;
    pjrt_client *client;
    const char *bytes;
    size_t byte_count;
    pjrt_loaded *loaded; /* out */
    const char *options;
    size_t options_size;
    void *load_options;
} pjrt_deserialize_args;

#endif
