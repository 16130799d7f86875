"""What this machine can do at most, measured when asked: multiply-adds and bytes read from memory per second.

Loops in C, built by the pinned toolchain for this very CPU: independent multiply-adds on registers only, in f32 and of
8-bit integers (exact ones, by the best instruction there is), and a sum over memory far larger than any cache. All run
on as many threads as the measurement that is judged by them.
"""

from __future__ import annotations

import ctypes
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tilewright.codegen.toolchain import default_toolchain

Array = NDArray[np.float64]

SOURCE = r"""
#include <stdint.h>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float vec __attribute__((vector_size(BYTES)));
enum { LANES = BYTES / 4, CHAINS = 24 };

/* Operations done: two for each multiply-add. 24 chains hide a latency of 4 at two a cycle, and fit in registers. */
double tw_fma(int64_t rounds, float *sink) {
    vec acc[CHAINS];
    vec a, b;
    for (int i = 0; i < LANES; i++) { a[i] = sink[0]; b[i] = sink[1]; }
    for (int c = 0; c < CHAINS; c++) acc[c] = a * (float)c;
    for (int64_t r = 0; r < rounds; r++) {
#pragma clang loop unroll(full)
        for (int c = 0; c < CHAINS; c++) acc[c] = acc[c] * a + b;
    }
    for (int c = 1; c < CHAINS; c++) acc[0] += acc[c];
    for (int i = 0; i < LANES; i++) sink[2] += acc[0][i];
    return 2.0 * LANES * CHAINS * (double)rounds;
}

/* Operations done: exact multiply-adds of 8-bit integers into 32 bits. Below VNNI those are products of 16-bit
 * integers: what multiplies bytes saturates. */
#if defined(__AVX512VNNI__)
#define STEP(acc) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(acc) : "v"(a))
#define STEP_LANES 64
#elif defined(__AVX2__)
#define STEP(acc) __asm__ volatile("vpmaddwd %2, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(a))
#define STEP_LANES 16
#elif defined(__SSE2__)
#define STEP(acc) \
    __asm__ volatile("movdqa %2, %1\n\tpmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(acc), "=&x"(t) : "x"(a))
#define STEP_LANES 8
#elif defined(__aarch64__)
#define STEP(acc) __asm__ volatile("smlal %0.4s, %1.4h, %1.4h" : "+w"(acc) : "w"(a))
#define STEP_LANES 4
#endif
typedef int ints __attribute__((vector_size(BYTES)));
enum { INT_CHAINS = 12 };
double tw_integers(int64_t rounds, float *sink) {
#ifdef STEP
    ints acc[INT_CHAINS] = {0}, a, t;
    for (int i = 0; i < LANES; i++) a[i] = t[i] = (int)sink[0] + 1;
    for (int64_t r = 0; r < rounds; r++) {
#pragma clang loop unroll(full)
        for (int c = 0; c < INT_CHAINS; c++) STEP(acc[c]);
    }
    for (int c = 1; c < INT_CHAINS; c++) acc[0] += acc[c];
    sink[2] += (float)acc[0][0] * 1e-30f + (float)t[0] * 0;
    return 2.0 * STEP_LANES * INT_CHAINS * (double)rounds;
#else
    return 0;
#endif
}

float tw_read(const float *data, int64_t count, int64_t times) {
    vec acc[8] = {0};
    for (int64_t t = 0; t < times; t++) {
        const vec *v = (const vec *)data;
        __asm__ volatile("" : "+r"(v) : : "memory"); /* every time is a time of its own */
        for (int64_t i = 0; i + 8 <= count / LANES; i += 8) {
#pragma clang loop unroll(full)
            for (int k = 0; k < 8; k++) acc[k] += v[i + k];
        }
    }
    for (int k = 1; k < 8; k++) acc[0] += acc[k];
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += acc[0][i];
    return sum;
}
"""
FLAGS = ("-O3", "-mcpu=native", "-ffp-contract=fast", "-fPIC")
#: Timed loops take a fraction of a millisecond: what else runs on the machine interrupts longer ones every time.
ROUNDS = 100_000
REPEATS = 150  # the best counts: a roof is what the machine can do when nothing disturbs it
#: Bytes that a thread reads over and over, from what any first-level cache holds to what a last-level one does. A size
#: takes the rate of the next larger one.
READ_SIZES = (16 << 10, 128 << 10, 1 << 20, 8 << 20)
READ_BYTES = 256 << 20  # shared by all threads; far beyond a last-level cache
READ_SLICE = 4 << 20  # bytes of one timed loop
SHARED_CALLS = 10  # of a timed loop on several threads, where they share what is measured


@dataclass(frozen=True, slots=True)
class Roofline:
    """Highest rates measured on ``threads`` threads: float32 operations (a multiply-add is two) and bytes a second.

    ``integers`` are operations a second on 8-bit integers, 0 where they were not measured. ``bandwidth`` is that of
    main memory; ``near`` has that of smaller amounts: bytes of all threads together, and bytes a second, ascending.
    """

    threads: int
    operations: float
    bandwidth: float
    near: tuple[tuple[int, float], ...] = ()
    integers: float = 0.0

    def best(self, other: Roofline) -> Roofline:
        """The higher of two measurements on as many threads."""
        near = tuple((size, max(a, b)) for (size, a), (_, b) in zip(self.near, other.near, strict=True))
        operations, bandwidth = max(self.operations, other.operations), max(self.bandwidth, other.bandwidth)
        return Roofline(self.threads, operations, bandwidth, near, max(self.integers, other.integers))

    def compute(self, operations: float, integers: float = 0.0) -> float:
        """The least seconds for so many operations in f32, and others on 8-bit integers."""
        return operations / self.operations + integers / (self.integers or self.operations)

    def seconds(self, operations: float, bytes_read: float, integers: float = 0.0) -> float:
        """The least time for so much work: neither compute nor memory can be faster."""
        return max(self.compute(operations, integers), bytes_read / self.bandwidth)


def measure(threads: int) -> Roofline:
    """Measure the roofs. Takes about a second.

    Raises:
        UsageError: there is no toolchain to build the loops with.
    """
    library = _build()
    library.tw_fma.restype, library.tw_fma.argtypes = ctypes.c_double, (ctypes.c_int64, ctypes.c_void_p)
    library.tw_read.restype = ctypes.c_float
    library.tw_read.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    sinks = [np.array([0.999999, 1e-6, 0], np.float32) for _ in range(threads)]
    operations = library.tw_fma(1, sinks[0].ctypes.data) * ROUNDS
    compute = _alone(lambda i, k: library.tw_fma(ROUNDS, sinks[i].ctypes.data), threads)
    library.tw_integers.restype, library.tw_integers.argtypes = ctypes.c_double, (ctypes.c_int64, ctypes.c_void_p)
    integers = library.tw_integers(1, sinks[0].ctypes.data) * ROUNDS
    integers *= _alone(lambda i, k: library.tw_integers(ROUNDS, sinks[i].ctypes.data), threads)
    data = np.ones(READ_BYTES // 4 + 16, np.float32)
    start = data.ctypes.data + -data.ctypes.data % 64

    def near(size: int) -> float:
        count, times = size // 4, max(1, READ_SLICE // size)
        return times * size * _alone(lambda i, k: library.tw_read(start + size * i, count, times), threads)

    def far(i: int, k: int) -> None:
        # Every slice was driven out of all caches by those after it.
        at = (i * (READ_BYTES // threads) + k * READ_SLICE) % READ_BYTES
        library.tw_read(start + at, READ_SLICE // 4, 1)

    levels = tuple((size * threads, near(size)) for size in READ_SIZES)
    return Roofline(threads, operations * compute, READ_SLICE * _together(far, threads), levels, integers)


def _alone(work: Callable[[int, int], object], threads: int) -> float:
    """Calls of ``work(thread, repeat)`` a second: the sum of what each thread reaches at its best beside the others."""
    started, ended = _timed(work, threads, REPEATS)
    return float((1 / (ended - started).min(axis=0)).sum())


def _together(work: Callable[[int, int], object], threads: int) -> float:
    """Calls of ``work(thread, repeat)`` a second of all threads on what they share: at best a repeat ends with the last
    thread, and as many calls run in it as outweigh that threads leave the gate one after another."""
    calls = 1 if threads == 1 else SHARED_CALLS

    def several(i: int, k: int) -> None:
        for j in range(calls):
            work(i, k * calls + j)

    started, ended = _timed(several, threads, REPEATS // calls)
    return threads * calls / float((ended.max(axis=1) - started.min(axis=1)).min())


def _timed(work: Callable[[int, int], object], threads: int, repeats: int) -> tuple[Array, Array]:
    """When each repeat began and ended on each thread. ctypes lets go of the interpreter's lock."""
    gate, times = threading.Barrier(threads), np.zeros((2, repeats, threads))

    def body(i: int) -> None:
        for k in range(repeats):
            gate.wait()
            times[0, k, i] = time.perf_counter()
            work(i, k)
            times[1, k, i] = time.perf_counter()

    workers = [threading.Thread(target=body, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return times[0], times[1]


@lru_cache(maxsize=1)
def _build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        # A cache of its own: what "native" means is not in the key of the common one.
        toolchain = default_toolchain(cache_folder=Path(folder))
        code = toolchain.compile(SOURCE, FLAGS, name="roofline")
        path = Path(folder) / "roofline.so"
        path.write_bytes(toolchain.link({"roofline": code}, ()))
        return ctypes.CDLL(str(path))
