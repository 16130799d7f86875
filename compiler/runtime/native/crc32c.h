/* CRC32C (Castagnoli, RFC 3720 appendix B.4) of 4096-byte segments, at the speed of memory where the processor has an
 * instruction for it. */
#ifndef TILEWRIGHT_CRC32C_H
#define TILEWRIGHT_CRC32C_H

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define TW_CRC_SEGMENT ((uint64_t)4096)
#define TW_CRC_POLYNOMIAL 0x82F63B78u /* reflected */
#define TW_CRC_STREAMS 4              /* independent segments at a time hide the instruction's latency */

typedef struct {
    const unsigned char *data, *table;
    uint64_t bytes, first, last; /* segments [first, last) */
    int64_t bad;
    uint32_t lookup[256];
    int native;
} tw_crc_job;

static uint32_t tw_crc_byte_step(const uint32_t *lookup, uint32_t crc, unsigned char byte) {
    return lookup[(crc ^ byte) & 255] ^ crc >> 8;
}

#if defined(__x86_64__)
static inline uint64_t tw_crc_word_step(uint64_t crc, uint64_t word) {
    __asm__("crc32q %1, %0" : "+r"(crc) : "r"(word));
    return crc;
}
#elif defined(__aarch64__)
static inline uint64_t tw_crc_word_step(uint64_t crc, uint64_t word) {
    uint32_t result = (uint32_t)crc;
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %1" : "+r"(result) : "r"(word));
    return result;
}
#else
static inline uint64_t tw_crc_word_step(uint64_t crc, uint64_t word) { return crc ^ word; }
#endif

static inline uint64_t tw_crc_load(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static uint32_t tw_crc_expected(const tw_crc_job *job, uint64_t segment) {
    const unsigned char *p = job->table + segment * 4;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t tw_crc_any_segment(const tw_crc_job *job, const unsigned char *p, uint64_t bytes) {
    uint32_t crc = 0xFFFFFFFFu;
    uint64_t i = 0;
    if (job->native)
        for (; i + 8 <= bytes; i += 8) crc = (uint32_t)tw_crc_word_step(crc, tw_crc_load(p + i));
    for (; i < bytes; i++) crc = tw_crc_byte_step(job->lookup, crc, p[i]);
    return ~crc;
}

static int tw_crc_whole_segments(const tw_crc_job *job, uint64_t segment) {
    const unsigned char *p = job->data + segment * TW_CRC_SEGMENT;
    uint64_t a = 0xFFFFFFFFu, b = a, c = a, d = a;
    for (uint64_t i = 0; i < TW_CRC_SEGMENT; i += 8) {
        a = tw_crc_word_step(a, tw_crc_load(p + i));
        b = tw_crc_word_step(b, tw_crc_load(p + TW_CRC_SEGMENT + i));
        c = tw_crc_word_step(c, tw_crc_load(p + 2 * TW_CRC_SEGMENT + i));
        d = tw_crc_word_step(d, tw_crc_load(p + 3 * TW_CRC_SEGMENT + i));
    }
    return (uint32_t)~a == tw_crc_expected(job, segment) && (uint32_t)~b == tw_crc_expected(job, segment + 1) &&
           (uint32_t)~c == tw_crc_expected(job, segment + 2) && (uint32_t)~d == tw_crc_expected(job, segment + 3);
}

static void *tw_crc_check_part(void *argument) {
    tw_crc_job *job = argument;
    uint64_t segment = job->first;
    job->bad = -1;
    if (job->native)
        while (segment + TW_CRC_STREAMS <= job->last && (segment + TW_CRC_STREAMS) * TW_CRC_SEGMENT <= job->bytes &&
               tw_crc_whole_segments(job, segment))
            segment += TW_CRC_STREAMS;
    for (; segment < job->last && job->bad < 0; segment++) {
        uint64_t start = segment * TW_CRC_SEGMENT, size = job->bytes - start < TW_CRC_SEGMENT ? job->bytes - start : TW_CRC_SEGMENT;
        if (tw_crc_any_segment(job, job->data + start, size) != tw_crc_expected(job, segment)) job->bad = (int64_t)segment;
    }
    return NULL;
}

/* The first segment that differs from the table of little-endian sums, or -1. `native`: the processor has the instruction. */
static int64_t tw_crc_check(const void *data, uint64_t bytes, const void *table, int32_t threads, int native) {
    uint64_t segments = bytes / TW_CRC_SEGMENT + (bytes % TW_CRC_SEGMENT != 0);
    uint64_t parts = threads < 1 ? 1 : threads > 16 ? 16 : (uint64_t)threads;
    if (segments / 1024 < parts) parts = segments / 1024 ? segments / 1024 : 1; /* 4 MB are worth a thread */
    tw_crc_job jobs[16];
    pthread_t handles[16];
    int started[16] = {0};
    memset(&jobs[0], 0, sizeof jobs[0]);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ TW_CRC_POLYNOMIAL : crc >> 1;
        jobs[0].lookup[i] = crc;
    }
    jobs[0].native = native;
    jobs[0].data = data;
    jobs[0].table = table;
    jobs[0].bytes = bytes;
    for (uint64_t i = 0; i < parts; i++) {
        if (i > 0) jobs[i] = jobs[0];
        jobs[i].first = segments * i / parts;
        jobs[i].last = segments * (i + 1) / parts;
        if (i > 0) started[i] = pthread_create(&handles[i], NULL, tw_crc_check_part, &jobs[i]) == 0;
    }
    int64_t bad = -1;
    for (uint64_t i = 0; i < parts; i++) {
        if (started[i]) pthread_join(handles[i], NULL);
        else tw_crc_check_part(&jobs[i]);
        if (bad < 0) bad = jobs[i].bad;
    }
    return bad;
}

#endif
