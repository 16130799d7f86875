/* Calls one routine on what a file holds; every buffer is an allocation of its own, so that sanitizers see its ends.
 *
 *     program CALL RESULT THREADS
 *
 * CALL: as 64-bit integers the numbers of buffers and of dims, grid and scratch bytes, the bytes of each buffer, the
 * dims; then the buffers' contents. RESULT: a byte for the fault flag, then the buffers. The grid is run in THREADS
 * pieces, one after the other, each with scratch memory of its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel_abi.h"

void routine(const tw_args *args, int64_t begin, int64_t end);

static void must(int ok) {
    if (!ok) exit(2);
}

int main(int argc, char **argv) {
    must(argc == 4);
    FILE *in = fopen(argv[1], "rb");
    int64_t head[4], sizes[16], pieces = atoi(argv[3]);
    must(in && fread(head, sizeof *head, 4, in) == 4 && head[0] <= 16);
    must(fread(sizes, sizeof *sizes, (size_t)head[0], in) == (size_t)head[0]);
    int64_t *dims = malloc((size_t)head[1] * sizeof *dims);
    must(fread(dims, sizeof *dims, (size_t)head[1], in) == (size_t)head[1]);
    void *buffers[16];
    for (int64_t i = 0; i < head[0]; i++) {
        must(posix_memalign(&buffers[i], 64, (size_t)sizes[i]) == 0);
        must(fread(buffers[i], 1, (size_t)sizes[i], in) == (size_t)sizes[i]);
    }
    fclose(in);
    int32_t fault = 0;
    for (int64_t piece = 0, grid = head[2]; piece < pieces; piece++) {
        int64_t begin = grid * piece / pieces, end = grid * (piece + 1) / pieces;
        void *scratch = NULL;
        must(!head[3] || posix_memalign(&scratch, 64, (size_t)head[3]) == 0);
        if (scratch) memset(scratch, 0xa5, (size_t)head[3]);
        tw_args args = {buffers, dims, scratch, &fault};
        if (begin < end) routine(&args, begin, end);
        free(scratch);
    }
    FILE *out = fopen(argv[2], "wb");
    must(out && fputc(fault, out) != EOF);
    for (int64_t i = 0; i < head[0]; i++) {
        must(fwrite(buffers[i], 1, (size_t)sizes[i], out) == (size_t)sizes[i]);
        free(buffers[i]);
    }
    free(dims);
    return fclose(out);
}
