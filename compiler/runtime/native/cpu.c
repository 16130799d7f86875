/* What this machine is: feature bits, and how many processors this process may use. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "executor.h"

/* One feature bit; 0 for whatever this architecture does not have. */
int32_t twr_cpu_has(uint32_t kind, uint32_t leaf, uint32_t subleaf, uint32_t bit) {
    if (bit > 63) return 0;
#if defined(__x86_64__)
    uint32_t registers[4] = {0, 0, 0, 0};
    if (kind <= TW_CPU_EDX)
        return bit < 32 && __get_cpuid_count(leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
               (registers[kind] >> bit & 1);
    if (kind == TW_CPU_XCR0) {
        /* Intel SDM vol. 1, 13.3: XGETBV exists when CPUID.1:ECX.OSXSAVE (bit 27) is set. */
        if (!__get_cpuid(1, &registers[0], &registers[1], &registers[2], &registers[3]) || !(registers[2] >> 27 & 1)) return 0;
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return (int32_t)(((uint64_t)high << 32 | low) >> bit & 1);
    }
#endif
    (void)leaf;
    (void)subleaf;
    if (kind == TW_CPU_HWCAP) return (int32_t)(getauxval(AT_HWCAP) >> bit & 1);
    if (kind == TW_CPU_HWCAP2) return (int32_t)(getauxval(AT_HWCAP2) >> bit & 1);
    return 0;
}

static bool read_line(const char *root, const char *path, char *line, size_t capacity) {
    char name[4200];
    if ((size_t)snprintf(name, sizeof name, "%s%s", root, path) >= sizeof name) return false;
    FILE *file = fopen(name, "re");
    if (file == NULL) return false;
    bool ok = fgets(line, (int)capacity, file) != NULL;
    fclose(file);
    return ok;
}

static void lower(double *limit, double quota) {
    if (quota > 0 && (*limit == 0 || quota < *limit)) *limit = quota;
}

/* The quota of one cgroup folder: "QUOTA PERIOD" in cpu.max (version 2), two files in version 1. */
static void folder_quota(const char *root, const char *folder, bool unified, double *limit) {
    char path[4200], line[128];
    double quota, period;
    if (unified) {
        snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (read_line(root, path, line, sizeof line) && sscanf(line, "%lf %lf", &quota, &period) == 2 && period > 0)
            lower(limit, quota / period);
        return;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(root, path, line, sizeof line)) return;
    quota = strtod(line, NULL);
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (read_line(root, path, line, sizeof line) && (period = strtod(line, NULL)) > 0 && quota > 0) lower(limit, quota / period);
}

/* A limit on any ancestor holds: every folder from the process's own up to the mount. */
static void chain_quota(const char *root, const char *mount, const char *group, bool unified, double *limit) {
    char folder[4096];
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", mount, group) >= sizeof folder) return;
    size_t least = strlen(mount);
    for (;;) {
        folder_quota(root, folder, unified, limit);
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= least || slash == NULL || (size_t)(slash - folder) < least) return;
        *slash = 0;
    }
}

static bool names_cpu(const char *controllers) {
    for (const char *at = controllers; at != NULL && *at != 0; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, "cpu", 3) == 0 && (at[3] == ',' || at[3] == 0)) return true;
    return false;
}

/* Processors that the cgroups of this process allow, or 0 without a limit. */
double twr_cpu_quota(const char *root) {
    char name[4200], line[4200];
    double limit = 0;
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "re");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL) { /* "ID:CONTROLLERS:PATH" */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL) continue;
        *controllers++ = 0;
        *group++ = 0;
        if (strcmp(group, "/") == 0) group = "";
        if (*controllers == 0) {
            chain_quota(root, "/sys/fs/cgroup", group, true, &limit);
        } else if (names_cpu(controllers)) {
            chain_quota(root, "/sys/fs/cgroup/cpu", group, false, &limit);
            chain_quota(root, "/sys/fs/cgroup/cpu,cpuacct", group, false, &limit);
        }
    }
    fclose(file);
    return limit;
}

static int32_t affinity_count(void) {
    for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
        cpu_set_t *set = CPU_ALLOC(processors);
        size_t size = CPU_ALLOC_SIZE(processors);
        if (set == NULL) break;
        int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0) return count;
    }
    return 1;
}

/* Processors of the affinity mask, at most the quota rounded up. */
int32_t twr_threads_default(void) {
    int32_t count = affinity_count();
    double quota = twr_cpu_quota("");
    if (quota > 0 && quota < count) {
        int32_t whole = (int32_t)quota;
        count = (double)whole < quota ? whole + 1 : whole;
    }
    return count < THREAD_LIMIT ? count : THREAD_LIMIT;
}
