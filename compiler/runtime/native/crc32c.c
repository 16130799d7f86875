/* CRC32C (Castagnoli, RFC 3720 appendix B.4) of 4096-byte segments, at the speed of memory where the processor has an
 * instruction for it. */
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "executor.h"

#define SEGMENT ((uint64_t)4096)
#define POLYNOMIAL 0x82F63B78u /* reflected */
#define STREAMS 4              /* independent segments at a time hide the instruction's latency */

typedef struct {
    const unsigned char *data, *table;
    uint64_t bytes, first, last; /* segments [first, last) */
    int64_t bad;
    uint32_t lookup[256];
    bool native;
} Job;

static uint32_t byte_step(const uint32_t *lookup, uint32_t crc, unsigned char byte) {
    return lookup[(crc ^ byte) & 255] ^ crc >> 8;
}

#if defined(__x86_64__)
static bool has_instruction(void) { return twr_cpu_has(TW_CPU_ECX, 1, 0, 20); } /* SSE4.2 */
static inline uint64_t word_step(uint64_t crc, uint64_t word) {
    __asm__("crc32q %1, %0" : "+r"(crc) : "r"(word));
    return crc;
}
#elif defined(__aarch64__)
static bool has_instruction(void) { return twr_cpu_has(TW_CPU_HWCAP, 0, 0, 7); } /* HWCAP_CRC32 */
static inline uint64_t word_step(uint64_t crc, uint64_t word) {
    uint32_t result = (uint32_t)crc;
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %1" : "+r"(result) : "r"(word));
    return result;
}
#else
static bool has_instruction(void) { return false; }
static inline uint64_t word_step(uint64_t crc, uint64_t word) { return crc ^ word; }
#endif

static inline uint64_t load(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static uint32_t expected(const Job *job, uint64_t segment) {
    const unsigned char *p = job->table + segment * 4;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t any_segment(const Job *job, const unsigned char *p, uint64_t bytes) {
    uint32_t crc = 0xFFFFFFFFu;
    uint64_t i = 0;
    if (job->native)
        for (; i + 8 <= bytes; i += 8) crc = (uint32_t)word_step(crc, load(p + i));
    for (; i < bytes; i++) crc = byte_step(job->lookup, crc, p[i]);
    return ~crc;
}

static bool whole_segments(const Job *job, uint64_t segment) {
    const unsigned char *p = job->data + segment * SEGMENT;
    uint64_t a = 0xFFFFFFFFu, b = a, c = a, d = a;
    for (uint64_t i = 0; i < SEGMENT; i += 8) {
        a = word_step(a, load(p + i));
        b = word_step(b, load(p + SEGMENT + i));
        c = word_step(c, load(p + 2 * SEGMENT + i));
        d = word_step(d, load(p + 3 * SEGMENT + i));
    }
    return (uint32_t)~a == expected(job, segment) && (uint32_t)~b == expected(job, segment + 1) &&
           (uint32_t)~c == expected(job, segment + 2) && (uint32_t)~d == expected(job, segment + 3);
}

static void *check_part(void *argument) {
    Job *job = argument;
    uint64_t segment = job->first;
    job->bad = -1;
    if (job->native)
        while (segment + STREAMS <= job->last && (segment + STREAMS) * SEGMENT <= job->bytes && whole_segments(job, segment))
            segment += STREAMS;
    for (; segment < job->last && job->bad < 0; segment++) {
        uint64_t start = segment * SEGMENT, size = job->bytes - start < SEGMENT ? job->bytes - start : SEGMENT;
        if (any_segment(job, job->data + start, size) != expected(job, segment)) job->bad = (int64_t)segment;
    }
    return NULL;
}

/* The first segment that differs from the table of little-endian sums, or -1. */
int64_t twr_check_crc(const void *data, uint64_t bytes, const void *table, int32_t threads) {
    uint64_t segments = bytes / SEGMENT + (bytes % SEGMENT != 0);
    uint64_t parts = threads < 1 ? 1 : threads > 16 ? 16 : (uint64_t)threads;
    if (segments / 1024 < parts) parts = segments / 1024 ? segments / 1024 : 1; /* 4 MB are worth a thread */
    Job jobs[16];
    pthread_t handles[16];
    bool started[16] = {false};
    memset(&jobs[0], 0, sizeof jobs[0]);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        jobs[0].lookup[i] = crc;
    }
    jobs[0].native = has_instruction();
    jobs[0].data = data;
    jobs[0].table = table;
    jobs[0].bytes = bytes;
    for (uint64_t i = 0; i < parts; i++) {
        if (i > 0) jobs[i] = jobs[0];
        jobs[i].first = segments * i / parts;
        jobs[i].last = segments * (i + 1) / parts;
        if (i > 0) started[i] = pthread_create(&handles[i], NULL, check_part, &jobs[i]) == 0;
    }
    int64_t bad = -1;
    for (uint64_t i = 0; i < parts; i++) {
        if (started[i]) pthread_join(handles[i], NULL);
        else check_part(&jobs[i]);
        if (bad < 0) bad = jobs[i].bad;
    }
    return bad;
}
