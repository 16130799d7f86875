/* A thread pool for blocks of kernels. The calling thread always works too, so nothing can wait for ever.
 *
 * One job at a time has the workers; a run that finds them busy, or as many runs going on as there are threads, does its
 * blocks alone. What a kernel computes never depends on who runs which block. */
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "executor.h"

#define CHUNKS_PER_THREAD 8   /* the last one to finish is late by an eighth at most */
#define SPIN_NANOSECONDS 40000 /* longer than the gap between two launches, shorter than anyone notices */

typedef struct Worker {
    Pool *pool;
    int32_t index; /* 0 is the calling thread */
} Worker;

static void pause_briefly(void) {
#if defined(__x86_64__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* The default floating point environment, so that the caller's (flushed subnormals, say) changes no result. */
static uint64_t reset_floating_point(void) {
    uint64_t old = 0;
#if defined(__x86_64__)
    uint32_t now, wanted = 0x1F80;
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    old = now;
    if (now != wanted) __asm__ volatile("ldmxcsr %0" : : "m"(wanted));
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    if (old != 0) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
#endif
    return old;
}

static void restore_floating_point(uint64_t old) {
#if defined(__x86_64__)
    uint32_t word = (uint32_t)old;
    __asm__ volatile("ldmxcsr %0" : : "m"(word));
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(old));
#endif
}

static int64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool has_work(uint32_t cursor) { return (cursor & 0xFFFF) < cursor >> 16; }

/* Takes and runs chunks until there are none. A chunk is ours once `cursor` says so; the job cannot change before it is
 * done, so its fields are read after taking it. */
static void work(Pool *pool, int32_t index) {
    for (;;) {
        uint32_t taken = atomic_fetch_add_explicit(&pool->cursor, 1, memory_order_acq_rel);
        if (!has_work(taken)) return;
        tw_args args = pool->args;
        args.scratch = pool->scratch != NULL ? pool->scratch + pool->scratch_stride * index : NULL;
        int64_t begin = (int64_t)(taken & 0xFFFF) * pool->chunk, end = begin + pool->chunk;
        pool->kernel(&args, begin, end < pool->grid ? end : pool->grid);
        atomic_fetch_add_explicit(&pool->done, 1, memory_order_release);
    }
}

static void sleep_until_work(Pool *pool) {
    uint32_t seen = atomic_load(&pool->generation);
    atomic_fetch_add(&pool->sleepers, 1);
    if (!has_work(atomic_load(&pool->cursor)) && !atomic_load(&pool->stop))
        syscall(SYS_futex, &pool->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void *worker_main(void *argument) {
    Worker *worker = argument;
    Pool *pool = worker->pool;
    reset_floating_point();
    int64_t idle_since = nanoseconds();
    for (uint32_t turn = 1; !atomic_load_explicit(&pool->stop, memory_order_relaxed); turn++) {
        if (has_work(atomic_load_explicit(&pool->cursor, memory_order_relaxed))) {
            work(pool, worker->index);
            idle_since = nanoseconds();
        }
        pause_briefly();
        if (turn % 16 == 0 && nanoseconds() - idle_since > SPIN_NANOSECONDS) {
            sleep_until_work(pool);
            idle_since = nanoseconds();
        }
    }
    return NULL;
}

/* Called with `busy` held, at the first launch that can be shared. Threads that cannot be had are done without. */
static void start_workers(Pool *pool) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the program's own */
    pool->started = 1;
    for (int32_t i = 1; i < pool->threads; i++) {
        pool->workers[i] = (Worker){pool, i};
        if (pthread_create(&pool->handles[pool->started], NULL, worker_main, &pool->workers[i]) != 0) break;
        pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void wake(Pool *pool) {
    if (atomic_load(&pool->sleepers) == 0) return;
    atomic_fetch_add(&pool->generation, 1);
    syscall(SYS_futex, &pool->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void share(Pool *pool, tw_kernel kernel, const tw_args *args, unsigned char *scratch, int64_t stride, int64_t grid) {
    int64_t most = (int64_t)pool->threads * CHUNKS_PER_THREAD;
    pool->kernel = kernel;
    pool->args = *args;
    pool->scratch = scratch;
    pool->scratch_stride = stride;
    pool->grid = grid;
    pool->chunk = grid / most + (grid % most != 0);
    uint32_t chunks = (uint32_t)(grid / pool->chunk + (grid % pool->chunk != 0));
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store(&pool->cursor, chunks << 16);
    wake(pool);
    work(pool, 0);
    for (uint32_t turn = 1; atomic_load_explicit(&pool->done, memory_order_acquire) != chunks; turn++) {
        pause_briefly();
        if (turn % 1024 == 0) sched_yield(); /* a worker lost its processor in the middle of a chunk */
    }
}

/* Runs all blocks of a kernel. */
void twr_pool_run(Pool *pool, tw_kernel kernel, const tw_args *args, unsigned char *scratch, int64_t stride, int64_t grid) {
    uint32_t free_pool = 0;
    if (grid > 1 && pool->threads > 1 && atomic_load_explicit(&pool->runs, memory_order_relaxed) < (uint32_t)pool->threads &&
        atomic_compare_exchange_strong(&pool->busy, &free_pool, 1)) {
        if (pool->started == 0) start_workers(pool);
        share(pool, kernel, args, scratch, stride, grid);
        atomic_store_explicit(&pool->busy, 0, memory_order_release);
        return;
    }
    tw_args own = *args;
    own.scratch = scratch;
    kernel(&own, 0, grid);
}

/* Begins a run. The first one in a forked child finds no threads and maybe held locks; it alone makes them anew.
 * Returns the caller's floating point environment, for twr_pool_leave. */
uint64_t twr_pool_enter(tw_plan *plan) {
    Pool *pool = &plan->pool;
    int64_t process = getpid(), old = atomic_load(&pool->process);
    while (old != process) {
        if (old != -process && atomic_compare_exchange_strong(&pool->process, &old, -process)) {
            atomic_store(&pool->cursor, 0);
            atomic_store(&pool->sleepers, 0);
            atomic_store(&pool->busy, 0);
            atomic_store(&pool->runs, 0);
            pool->started = 0; /* the parent's threads are not in this process */
            twr_forget_runs(plan);
            atomic_store(&pool->process, process);
            break;
        }
        sched_yield();
        old = atomic_load(&pool->process);
    }
    atomic_fetch_add_explicit(&pool->runs, 1, memory_order_relaxed);
    return reset_floating_point();
}

void twr_pool_leave(tw_plan *plan, uint64_t floating_point) {
    restore_floating_point(floating_point);
    atomic_fetch_sub_explicit(&plan->pool.runs, 1, memory_order_relaxed);
}

/* A pool of `threads`, the calling one among them. Its workers start when they are first needed. */
bool twr_pool_create(Pool *pool, int32_t threads) {
    pool->threads = threads;
    pool->handles = calloc((size_t)threads, sizeof *pool->handles);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    atomic_store(&pool->process, (int64_t)getpid());
    return pool->handles != NULL && pool->workers != NULL;
}

void twr_pool_destroy(Pool *pool) {
    if (atomic_load(&pool->process) == (int64_t)getpid()) {
        atomic_store(&pool->stop, 1);
        atomic_fetch_add(&pool->generation, 1);
        syscall(SYS_futex, &pool->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        for (int32_t i = 1; i < pool->started; i++) pthread_join(pool->handles[i], NULL);
    }
    free(pool->handles);
    free(pool->workers);
}
