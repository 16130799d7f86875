/* Sums of the weights' segments, for the executor. */
#include <sys/auxv.h>

#include "crc32c.h"
#include "executor.h"

#if defined(__x86_64__)
static bool has_instruction(void) { return twr_cpu_has(TW_CPU_ECX, 1, 0, 20); } /* SSE4.2 */
#elif defined(__aarch64__)
static bool has_instruction(void) { return twr_cpu_has(TW_CPU_HWCAP, 0, 0, 7); } /* HWCAP_CRC32 */
#else
static bool has_instruction(void) { return false; }
#endif

/* The first segment that differs from the table of little-endian sums, or -1. */
int64_t twr_check_crc(const void *data, uint64_t bytes, const void *table, int32_t threads) {
    return tw_crc_check(data, bytes, table, threads, has_instruction());
}
