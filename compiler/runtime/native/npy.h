/* Tensors as .npy files, version 1 (NumPy enhancement proposal 1). */
#ifndef TILEWRIGHT_NPY_H
#define TILEWRIGHT_NPY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tilewright.h"

/* By ONNX type number; types that NumPy lacks are unsigned integers of their size. */
static const struct {
    int32_t dtype;
    const char *descr;
    int32_t bytes;
} npy_types[] = {{1, "<f4", 4},  {2, "|u1", 1},  {3, "|i1", 1},  {4, "<u2", 2},  {5, "<i2", 2},  {6, "<i4", 4},  {7, "<i8", 8}, {9, "|b1", 1},
                 {10, "<f2", 2}, {11, "<f8", 8}, {12, "<u4", 4}, {13, "<u8", 8}, {16, "<u2", 2}, {17, "|u1", 1}, {18, "|u1", 1},
                 {19, "|u1", 1}, {20, "|u1", 1}, {24, "|u1", 1}};

static int npy_type(int32_t dtype) {
    for (int i = 0; i < (int)(sizeof npy_types / sizeof *npy_types); i++)
        if (npy_types[i].dtype == dtype) return i;
    return -1;
}

/* Reads a file as a tensor of type `dtype`; NULL, or what is wrong. */
static const char *npy_read(const char *path, int32_t dtype, tw_tensor *tensor) {
    unsigned char start[10];
    char header[65536], *at;
    int type = npy_type(dtype);
    FILE *file = fopen(path, "rb");
    if (file == NULL) return "it cannot be opened";
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY\x01\x00", 8) != 0) return fclose(file), "not a .npy file of version 1";
    size_t length = start[8] | (size_t)start[9] << 8;
    if (fread(header, 1, length, file) != length) return fclose(file), "it is cut short";
    header[length < sizeof header ? length : sizeof header - 1] = 0;
    if (type < 0 || strstr(header, npy_types[type].descr) == NULL) return fclose(file), "its element type is not the model's";
    if (strstr(header, "'fortran_order': False") == NULL) return fclose(file), "it is in Fortran order";
    if ((at = strstr(header, "'shape': (")) == NULL) return fclose(file), "its header is malformed";
    int64_t bytes = npy_types[type].bytes;
    tensor->dtype = dtype;
    tensor->rank = 0;
    for (at += 10; *at != ')' && *at != 0; at += strspn(at, ", ")) {
        char *end;
        long long dim = strtoll(at, &end, 10);
        if (end == at || dim < 0 || tensor->rank == TW_MAX_RANK || __builtin_mul_overflow(bytes, (int64_t)dim, &bytes))
            return fclose(file), "its shape is malformed";
        tensor->dim[tensor->rank++] = dim;
        at = end;
    }
    tensor->bytes = bytes;
    tensor->data = malloc(bytes ? (size_t)bytes : 1);
    int whole = tensor->data != NULL && fread(tensor->data, 1, (size_t)bytes, file) == (size_t)bytes;
    fclose(file);
    return whole ? NULL : "it is cut short, or there is no memory for it";
}

/* Writes a tensor; NULL, or what is wrong. */
static const char *npy_write(const char *path, const tw_tensor *tensor) {
    char header[1024];
    int type = npy_type(tensor->dtype);
    if (type < 0) return "its element type has no .npy form";
    int used = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (", npy_types[type].descr);
    for (int32_t d = 0; d < tensor->rank; d++)
        used += snprintf(header + used, sizeof header - (size_t)used, d ? " %lld," : "%lld,", (long long)tensor->dim[d]);
    used += snprintf(header + used, sizeof header - (size_t)used, "), }");
    size_t padded = ((size_t)used + 10 + 1 + 63) / 64 * 64 - 10; /* data starts at a multiple of 64 */
    FILE *file = fopen(path, "wb");
    if (file == NULL) return "it cannot be opened";
    unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(padded & 255), (unsigned char)(padded >> 8)};
    int ok = fwrite(start, 1, 10, file) == 10 && fprintf(file, "%-*s\n", (int)padded - 1, header) == (int)padded &&
             fwrite(tensor->data, 1, (size_t)tensor->bytes, file) == (size_t)tensor->bytes;
    return fclose(file) == 0 && ok ? NULL : "it cannot be written";
}

#endif
