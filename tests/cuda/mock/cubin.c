/* What a real cubin says of its kernel, from the ELF sections that the driver reads: the parameters' sizes (.nv.info.NAME,
 * attribute KPARAM_INFO as cuobjdump prints it) and static shared memory (.nv.shared.NAME). Such kernels are launched and
 * checked, and compute nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock.h"

enum { FORMAT_SIZED = 4, KPARAM_INFO = 0x17, KPARAM_INFO_V2 = 0x45 };

static uint64_t field(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

static void nothing(const Launch *launch) { (void)launch; }

static void read_parameters(const unsigned char *p, const unsigned char *end, char *sizes) {
    while (end - p >= 4) {
        size_t length = p[0] == FORMAT_SIZED ? field(p + 2, 2) : 0;
        if (p[0] == FORMAT_SIZED && p[1] == KPARAM_INFO && length == 12) {
            unsigned ordinal = (unsigned)field(p + 8, 2), bytes = (unsigned)(field(p + 12, 4) >> 18);
            if (ordinal < PARAMS_MOST) sizes[ordinal] = bytes == 4 ? 'i' : bytes == 8 ? 'p' : '?';
        } else if (p[0] == FORMAT_SIZED && p[1] == KPARAM_INFO_V2) {
            mock_broken("the mock does not know how this cubin tells its parameters");
        }
        p += 4 + length;
    }
}

/* Fills `kernel` (its name and sizes are the caller's to keep) from a cubin with one kernel; false when there is none. */
bool mock_read_cubin(const unsigned char *elf, MockKernel *kernel, char name[128], char sizes[PARAMS_MOST + 1]) {
    const unsigned char *sections = elf + field(elf + 40, 8);
    unsigned count = (unsigned)field(elf + 60, 2), names_at = (unsigned)field(elf + 62, 2);
    if (count < 2) return false;
    const char *names = (const char *)elf + field(sections + 64 * names_at + 24, 8);
    memset(sizes, 0, PARAMS_MOST + 1);
    *kernel = (MockKernel){name, sizes, nothing, 1024, 0};
    bool found = false;
    for (unsigned i = 1; i < count; i++) {
        const unsigned char *s = sections + 64 * i;
        const char *called = names + field(s, 4);
        if (strncmp(called, ".nv.info.", 9) == 0) {
            snprintf(name, 128, "%s", called + 9);
            const unsigned char *data = elf + field(s + 24, 8);
            read_parameters(data, data + field(s + 32, 8), sizes);
            found = true;
        } else if (strncmp(called, ".nv.shared.", 11) == 0 && field(s + 4, 4) == 8) {
            kernel->shared = (int)field(s + 32, 8);
        }
    }
    return found;
}
