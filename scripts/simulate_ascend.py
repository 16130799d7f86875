"""Cycles of kernels on a model of Ascend cores: what a launch takes, what its pipes do, and what they wait for.

    python scripts/simulate_ascend.py 4096x4096x4096:f16                     rows x columns x depth, weights constant
    python scripts/simulate_ascend.py bert-up llama-down:1                   named layers (see --list)
    python scripts/simulate_ascend.py --model bert-base --precision fp16     each distinct kernel of a model of the zoo
    python scripts/simulate_ascend.py 1024x3072x768:f16 --trace t.json --picture t.png
    python scripts/simulate_ascend.py 1024x3072x768:f16 --data               all rules, with random data
    python scripts/simulate_ascend.py --table [TEXT ...]                     models/results/ascend-cycles.md

Schedules are those that a build takes. Nothing here ran on a device: cycles are computed from the numbers in
``backends/ascend/targets``, each with its source there. Rows that the table has already are kept, but those that
contain one of the TEXTs; each is written as soon as it is there. ``--trace`` opens in ui.perfetto.dev.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tilewright.backends import ascend
from tilewright.backends.ascend.groups import merged_groups
from tilewright.backends.ascend.placed.form import Placed
from tilewright.backends.ascend.placing.place import place
from tilewright.backends.ascend.schedules.schedule import first_fit
from tilewright.backends.ascend.simulator.bound import Product, most_utilisation
from tilewright.backends.ascend.simulator.machine import check
from tilewright.backends.ascend.simulator.picture import draw
from tilewright.backends.ascend.simulator.timeline import trace_of
from tilewright.backends.ascend.simulator.times import Timing
from tilewright.backends.ascend.simulator.timing import launch_time
from tilewright.errors import InternalError, TilewrightError
from tilewright.kernel.apply import apply
from tilewright.kernel.parse import parse_kernel
from tilewright.kernel.tile import Kernel
from tilewright.target import Target, load_targets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from resumable_table import Table  # noqa: E402 (beside this file)

from tests.ascend.convolutions import Convolution  # noqa: E402
from tests.kernel.trial_kernels import flash_attention, matmul_bias_gelu  # noqa: E402

HEAD = (
    *("layer", "sizes", "target", "cycles", "µs", "cube", "in a model", "most possible", "busiest pipe", "from DRAM"),
    *("blocks", "waits for", "remark"),
)
TABLE = Table(ROOT / "models" / "results" / "ascend-cycles.md", HEAD, 3)
#: Blocks that run with data before a row is written: buffers of two slots are in their second turn then.
_BLOCKS = 3
TARGETS = ("ascend:910b1", "ascend:910b3", "ascend:910b4", "ascend:310p3")

ABOUT = """# Cycles on the model of Ascend cores

Written by `python scripts/simulate_ascend.py --table`. **Modelled, never run on a device**: each number follows from
the `[cycles]` of `backends/ascend/targets`, whose sources stand there, and from the simple model of shared memory in
`backends/ascend/simulator/traffic.py`. `cube` is the share of the multiply-adds that all cube cores could have done in
the time, with all inputs in DRAM when the launch begins; `in a model` is the same where L2 still holds the activations
that the launch before wrote (weights stay in DRAM): the column that counts for a layer of a model. `most possible` is
what the bytes that any grid of cores has to read, the products and the latencies allow in both cases
(`backends/ascend/simulator/bound.py`), whatever the schedule. One group of cores, that with the most to do, is
simulated. A launch's own start is not counted. Waits are shares of the time of a core. *Of what DRAM allows*: the time
in which all cores could just read the inputs, over the time that the launch takes. A row is
written when three blocks of its program, those of one group of cores, ran with random data under all rules of the
simulator; rows of 310P3 from the 14 x 14 convolutions on, and of 910B4 from Llama's on, are older than that.

"""

PRODUCT = """
@kernel
def product(A: {dtype}[M, {k}], B: const[{dtype}[{k}, {n}]], C: out[{result}[M, {n}]]):
    where(1 <= M <= 65536)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, {wide}(A[m, k]) * {wide}(B[k, n]))
    C[m, n] = {value}
"""

#: What comes between products, on rows of a matrix: their time is what the memory takes, as far as schedules are good.
ROWS = {
    "layernorm": """
@kernel
def layernorm(X: f16[{m}, {n}], G: const[f16[{n}]], B: const[f16[{n}]], Y: out[f16[{m}, {n}]]):
    m: {m}
    n: {n}
    total[m] = sum(n, f32(X[m, n]))
    centred[m, n] = f32(X[m, n]) - total[m] * f32({mean})
    square[m] = sum(n, centred[m, n] * centred[m, n])
    spread[m] = sqrt(square[m] * f32({mean}) + f32(0.00001))
    Y[m, n] = f16(centred[m, n] / spread[m] * f32(G[n]) + f32(B[n]))
""",
    "rmsnorm": """
@kernel
def rmsnorm(X: f16[{m}, {n}], G: const[f16[{n}]], Y: out[f16[{m}, {n}]]):
    m: {m}
    n: {n}
    square[m] = sum(n, f32(X[m, n]) * f32(X[m, n]))
    Y[m, n] = f16(f32(X[m, n]) / sqrt(square[m] * f32({mean}) + f32(0.00001)) * f32(G[n]))
""",
    "softmax": """
@kernel
def softmax(X: f16[{m}, {n}], Y: out[f16[{m}, {n}]]):
    m: {m}
    n: {n}
    top[m] = max(n, f32(X[m, n]))
    shifted[m, n] = exp(f32(X[m, n]) - top[m])
    total[m] = sum(n, shifted[m, n])
    Y[m, n] = f16(shifted[m, n] / total[m])
""",
    "gelu": """
@kernel
def gelu(X: f16[{m}, {n}], Y: out[f16[{m}, {n}]]):
    m: {m}
    n: {n}
    x[m, n] = f32(X[m, n])
    Y[m, n] = f16(x[m, n] * f32(0.5) * (erf(x[m, n] * f32(0.70710678)) + f32(1.0)))
""",
    "rotary": """
@kernel
def rotary(X: f16[{m}, 32, 2, {n}], C: f16[{m}, {n}], S: f16[{m}, {n}],
           Y: out[f16[{m}, 32, {n}]], Z: out[f16[{m}, 32, {n}]]):
    m: {m}
    h: 32
    n: {n}
    Y[m, h, n] = f16(f32(X[m, h, 0, n]) * f32(C[m, n]) - f32(X[m, h, 1, n]) * f32(S[m, n]))
    Z[m, h, n] = f16(f32(X[m, h, 1, n]) * f32(C[m, n]) + f32(X[m, h, 0, n]) * f32(S[m, n]))
""",
}


NARROW = """
@kernel
def product(A: f16[M, {k}], B: const[{dtype}[{k}, {n}]], S: const[f16[{shape}]], C: out[f16[M, {n}]]):
    where(1 <= M <= {most})
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32({operand}))
    C[m, n] = f16({value})
"""

RESIDUAL = """
@kernel
def residual(A: f16[M, {k}], B: const[f16[{k}, {n}]], bias: const[f16[{n}]], R: f16[M, {n}], C: out[f16[M, {n}]]):
    where(1 <= M <= 65536)
    m: M
    n: {n}
    k: {k}
    acc[m, n] = sum(k, f32(A[m, k]) * f32(B[k, n]))
    C[m, n] = f16(acc[m, n]) + bias[n] + R[m, n]
"""


DECODE = """
@kernel
def decode(Q: f16[{heads}*B, 1, {depth}], K: f16[{heads}*B, T, {depth}], V: f16[{heads}*B, T, {depth}],
           O: out[f16[{heads}*B, 1, {depth}]]):
    where(1 <= B <= 32, 1 <= T <= 2048)
    m: {heads}*B
    n: {depth}
    t: T
    k: {depth}
    for t in scan(top=f32(-inf)[m], total=f32(0.0)[m], acc=f32(0.0)[m, n]):
        raw[m, t] = sum(k, f32(Q[m, 0, k]) * f32(K[m, t, k]))
        s[m, t] = f32(f16(raw[m, t]) * f16({scale}))
        new[m] = max(t, s[m, t])
        next[m] = max(top[m], new[m])
        base[m] = select(next[m] == f32(-inf), f32(0.0), next[m])
        p[m, t] = exp(s[m, t] - base[m])
        shrink[m] = exp(top[m] - base[m])
        part[m] = sum(t, p[m, t])
        pv[m, n] = sum(t, f32(f16(p[m, t])) * f32(V[m, t, n]))
        sums[m] = total[m] * shrink[m] + part[m]
        more[m, n] = acc[m, n] * shrink[m] + pv[m, n]
        yield_(top=next, total=sums, acc=more)
    O[m, 0, n] = f16(acc[m, n] / total[m])
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A layer: its name and sizes in the table, its kernel, and values of the dimension symbols."""

    name: str
    sizes: str
    kernel: Callable[[], Kernel]
    dims: Mapping[str, int] = field(default_factory=dict)
    product: Product | None = None


def product(rows: int, columns: int, depth: int, dtype: str = "f16", name: str = "product") -> Case:
    """A plain product with constant weights, in the type of its inputs (sums of i8 stay i32)."""

    def kernel() -> Kernel:
        whole = dtype == "i8"
        wide, result = ("i32", "i32") if whole else ("" if dtype == "f32" else "f32", dtype)
        value = "acc[m, n]" if whole or dtype == "f32" else f"{dtype}(acc[m, n])"
        text = PRODUCT.format(dtype=dtype, k=depth, n=columns, wide=wide, result=result, value=value)
        return parse_kernel(text)

    bound = Product(rows, columns, depth, dtype, {"i8": 1, "f32": 4}.get(dtype, 2))
    return Case(name, f"{rows}x{columns}x{depth} {dtype}", kernel, {"M": rows}, bound)


def residual(name: str, rows: int, columns: int, depth: int) -> Case:
    """A product with bias to whose result the input of the block is added."""
    kernel = lambda: parse_kernel(RESIDUAL.format(k=depth, n=columns))  # noqa: E731
    bound = Product(rows, columns, depth, "f16", 2)
    return Case(name, f"{rows}x{columns}x{depth} f16", kernel, {"M": rows}, bound)


def narrow(name: str, rows: int, columns: int, depth: int, dtype: str, group: int = 0) -> Case:
    """A product of f16 with weights of 8 or 4 bits, scaled by columns or in groups; few rows are never more than 16."""

    def kernel() -> Kernel:
        operand = f"f16(f32(B[k, n]) * f32(S[k // {group}, n]))" if group else "B[k, n]"
        value = "acc[m, n]" if group else "acc[m, n] * f32(S[n])"
        shape = f"{depth // group}, {columns}" if group else str(columns)
        sizes = {"k": depth, "n": columns, "most": 16 if rows <= 16 else 65536}
        text = NARROW.format(dtype=dtype, shape=shape, operand=operand, value=value, **sizes)
        return parse_kernel(text)

    by = f"groups of {group}" if group else "columns"
    return Case(name, f"{rows}x{columns}x{depth} f16 x {dtype} by {by}", kernel, {"M": rows})


def dense(name: str, rows: int, columns: int, depth: int) -> Case:
    """A product with bias and GELU, as the first half of a feed-forward block is."""
    kernel = lambda: matmul_bias_gelu("f16", depth, columns)  # noqa: E731
    return Case(name, f"{rows}x{columns}x{depth} f16", kernel, {"M": rows}, Product(rows, columns, depth, "f16", 2))


def attention(name: str, batch: int, heads: int, queries: int, keys: int, depth: int, mask: str) -> Case:
    """Attention in one kernel, built for sequences that are no longer than these."""
    dims = {"B": batch, "H": heads, "S": queries, "T": keys}
    sizes = f"{batch}x{heads}x{queries}x{keys}x{depth} f16 {mask}"

    def kernel() -> Kernel:
        made = flash_attention("f16", depth=depth, mask=mask)
        facts = tuple((n, replace(r, hi=dims[n]) if n in "ST" else r) for n, r in made.facts)
        return replace(made, facts=facts)

    return Case(name, sizes, kernel, dims)


def decoding(name: str, batch: int, heads: int, keys: int, depth: int) -> Case:
    """Attention of one query a head over a cache, which vector cores do."""
    kernel = lambda: parse_kernel(DECODE.format(heads=heads, depth=depth, scale=depth**-0.5))  # noqa: E731
    return Case(name, f"{batch}x{heads}x1x{keys}x{depth} f16", kernel, {"B": batch, "T": keys})


def convolution(name: str, batch: int, sizes: Convolution) -> Case:
    """A convolution with bias and ReLU as lowering makes it; the input of a model has its channels first."""
    image, window = "x".join(map(str, sizes.image)), "x".join(map(str, sizes.kernel))
    stride = f" / {sizes.stride[0]}" if sizes.stride != (1, 1) else ""
    more = " + residual" if sizes.residual else ""
    told = f"{batch}x{image}x{sizes.channels} to {sizes.filters}, {window}{stride}{more} {sizes.dtype}"
    return Case(name, told, sizes.build, {"batch": batch})


#: The first layer of a ResNet, on the input of the model.
FIRST = Convolution((224, 224), 3, 64, (7, 7), (2, 2), pads=(3, 3, 3, 3), planar=True, merged=False)


def row_wise(name: str, height: int, width: int) -> Case:
    """A function of the rows of a matrix."""
    text = ROWS[name].format(m=height, n=width, mean=f"{1 / width:.9g}")
    return Case(name, f"{height}x{width} f16", lambda: parse_kernel(text))


#: Layers of known models at sizes that are run: 8 x 128 tokens of BERT, prefill and one token of Llama-7B.
LAYERS: tuple[Case, ...] = (
    product(4096, 4096, 4096, name="matmul"),
    product(4096, 4096, 4096, "i8", name="matmul"),
    product(1024, 768, 768, name="bert-projection"),
    dense("bert-up", 1024, 3072, 768),
    product(1024, 768, 3072, name="bert-down"),
    product(1024, 2304, 768, name="bert-qkv"),
    residual("bert-output-residual", 1024, 768, 768),
    residual("bert-down-residual", 1024, 768, 3072),
    attention("bert-attention", 8, 12, 128, 128, 64, "additive"),
    convolution("resnet50-conv", 8, Convolution((56, 56), 64, 64)),
    convolution("resnet50-conv", 8, Convolution((56, 56), 64, 64, residual=True)),
    convolution("resnet50-conv", 8, Convolution((28, 28), 128, 128)),
    convolution("resnet50-conv", 8, Convolution((14, 14), 256, 256)),
    convolution("resnet50-conv", 8, Convolution((7, 7), 512, 512)),
    convolution("resnet50-conv", 8, Convolution((14, 14), 256, 256, dtype="i8", outside=-128)),
    convolution("resnet50-conv", 8, Convolution((56, 56), 128, 128, stride=(2, 2))),
    convolution("resnet50-first", 8, FIRST),
    convolution("resnet50-conv", 8, Convolution((56, 56), 64, 256, (1, 1), pads=(0, 0, 0, 0), residual=True)),
    convolution("resnet50-conv", 8, Convolution((14, 14), 1024, 256, (1, 1), pads=(0, 0, 0, 0))),
    product(512, 4096, 4096, name="llama-projection"),
    product(512, 11008, 4096, name="llama-up"),
    product(512, 4096, 11008, name="llama-down"),
    product(1, 4096, 4096, name="llama-projection"),
    product(1, 11008, 4096, name="llama-up"),
    product(1, 4096, 11008, name="llama-down"),
    narrow("llama-up", 1, 11008, 4096, "i8"),
    narrow("llama-up", 1, 11008, 4096, "i8", 128),
    narrow("llama-up", 1, 11008, 4096, "i4", 128),
    narrow("llama-projection", 512, 4096, 4096, "i8"),
    narrow("llama-projection", 512, 4096, 4096, "i4", 128),
    attention("llama-attention", 1, 32, 512, 512, 128, "causal"),
    attention("llama-attention", 1, 32, 2048, 2048, 128, "causal"),
    decoding("llama-attention", 1, 32, 512, 128),
    decoding("llama-attention", 1, 32, 2048, 128),
    row_wise("layernorm", 1024, 768),
    row_wise("softmax", 12288, 128),
    row_wise("gelu", 1024, 3072),
    row_wise("rmsnorm", 512, 4096),
    row_wise("rotary", 512, 64),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("cases", nargs="*", help="rows x columns x depth:dtype, names of layers, or TEXTs of the table")
    parser.add_argument("--target", default="ascend:910b3")
    parser.add_argument("--model", default="", help="each distinct kernel of a model of the zoo, or of a file")
    parser.add_argument("--precision", default="", help="of the model: fp16, bf16, int8 …")
    parser.add_argument("--full", action="store_true", help="the model at its published size")
    parser.add_argument(
        "--size", action="append", default=[], metavar="NAME=N", help="a dimension of the model's kernels"
    )
    parser.add_argument("--groups", type=int, default=None, help="groups of cores; by default all that have work")
    parser.add_argument("--all-groups", action="store_true", help="simulate every group, not that with the most to do")
    parser.add_argument("--trace", type=Path, help="write a trace for ui.perfetto.dev")
    parser.add_argument("--picture", type=Path, help="write a picture (needs matplotlib)")
    parser.add_argument("--data", action="store_true", help="run with random data under all rules, too")
    parser.add_argument("--table", action="store_true", help="write models/results/ascend-cycles.md")
    parser.add_argument("--list", action="store_true", help="names of layers")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{c.name:18} {c.sizes}" for c in LAYERS))
        return 0
    if options.table:
        return write_table(tuple(options.cases))
    target = load_targets(Path(ascend.__path__[0]) / "targets", "ascend")[options.target]
    failed = 0
    for case in cases_of(options, target):
        try:
            simulate(case, target, options)
        except (TilewrightError, InternalError) as error:
            failed += 1
            print(f"{case.name} {case.sizes}: {' '.join(str(error).split())[:400]}\n")
    return 1 if failed else 0


def cases_of(options: argparse.Namespace, target: Target) -> Iterator[Case]:
    """What the command line asks for. Raises ``SystemExit`` for a name that is none."""
    for text in options.cases:
        sizes, _, dtype = text.partition(":")
        parts = sizes.split("x")
        if len(parts) == 3 and all(p.isdigit() for p in parts):
            yield product(*map(int, parts), dtype or "f16")
            continue
        found = [c for c in LAYERS if c.name == sizes and (not dtype or c.sizes.split("x")[0] == dtype)]
        if not found:
            raise SystemExit(f"{text} is neither ROWSxCOLUMNSxDEPTH:DTYPE nor a layer (--list)")
        yield from found
    if options.model:
        yield from kernels_of(options, target)


def kernels_of(options: argparse.Namespace, target: Target) -> Iterator[Case]:
    """Each distinct kernel of a model, its open sizes as given by ``--size`` or as large as 1024 allows."""
    import collections

    import cover_ascend

    given = {name: int(value) for name, _, value in (s.partition("=") for s in options.size)}
    gathered: dict[str, tuple[Kernel, list[str]]] = {}
    others: collections.Counter[str] = collections.Counter()
    asked = argparse.Namespace(models=[options.model], full=options.full, plain=False, k="")
    for name, model, shapes in cover_ascend._models(asked):
        cover_ascend._gather(name, model, shapes, options.precision, target, gathered, others)
    for kernel, uses in gathered.values():
        dims = {n: given.get(n, max(r.lo, min(r.hi, 1024) // r.divisor * r.divisor)) for n, r in kernel.facts}
        sizes = " ".join(f"{n}={v}" for n, v in dims.items())
        yield Case(f"{uses[0]} (x{len(uses)})", sizes, lambda kernel=kernel: kernel, dims)


def placed(case: Case, target: Target) -> Placed:
    """The program that a build would take."""
    kernel = merged_groups(case.kernel(), target)  # as the backend prepares it
    return place(apply(kernel, first_fit(kernel, target)), target)


def simulate(case: Case, target: Target, options: argparse.Namespace) -> None:
    """Print what a launch takes, and write what was asked for."""
    program = placed(case, target)
    keep = options.trace is not None or options.picture is not None
    started = time.perf_counter()
    simulate_groups = None if options.all_groups else 1
    timing = launch_time(program, case.dims, groups=options.groups, simulate=simulate_groups, spans=keep)
    seconds = time.perf_counter() - started
    tell(case, target, timing, seconds)
    title = f"{case.name} {case.sizes} on {target.spelling}"
    if options.trace:
        options.trace.write_text(trace_of(timing, title), encoding="utf-8")
    if options.picture:
        draw(timing, title, options.picture)
    if options.data:
        inputs = sample(program, case.dims)
        started = time.perf_counter()
        result = check(program, inputs, case.dims, groups=timing.groups)
        seconds = time.perf_counter() - started
        print(
            f"  with data on {timing.groups} groups: {result.executed} statements, no rule broken ({seconds:.1f} s)\n"
        )


def tell(case: Case, target: Target, timing: Timing, seconds: float) -> None:
    """The numbers of one launch, for people."""
    cube = f", {timing.utilisation:.1%} of the cube units" if timing.peak else ""
    what = f"{case.name} {case.sizes} on {target.spelling}"
    print(f"{what}: {timing.cycles:,.0f} cycles, {timing.microseconds:,.1f} µs{cube}")
    busy = ", ".join(f"{kind} {pipe} {share:.0%}" for (kind, pipe), share in timing.busy.items())
    print(f"  busy: {busy}")
    for kind, pipe, reason, waited in timing.waits[:6]:
        print(f"  {waited:6.1%} {kind} {pipe} waits for {reason}")
    print(
        f"  {timing.blocks} blocks on {timing.groups} groups, {timing.simulated} simulated; "
        f"{timing.rates.missed:.0%} of what is read comes from DRAM; {timing.statements} statements ({seconds:.1f} s)\n"
    )


def sample(program: Placed, dims: Mapping[str, int]) -> dict[str, Any]:
    """Random inputs in the shapes that the placed kernel takes, packed ones included."""
    random = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for p in program.kernel.params:
        if p.role != "out":
            shape = [e.evaluate(dims) for e in program.buffer(p.name).shape]
            values = random.standard_normal(shape) * 0.1 if p.dtype.is_float else random.integers(0, 100, shape)
            made[p.name] = np.asarray(values).astype(program.buffer(p.name).dtype.numpy)
    return made


# -- the table -----------------------------------------------------------------------------------------------------


def write_table(texts: tuple[str, ...]) -> int:
    """Fill the table row by row; rows that are there stay, but those with one of ``texts``."""
    known = {k: r for k, r in TABLE.read().items() if not any(t in " ".join(r) for t in texts)}
    targets = load_targets(Path(ascend.__path__[0]) / "targets", "ascend")
    for spelling in TARGETS:
        for case in LAYERS:
            key = (case.name, case.sizes, spelling)
            if key not in known:
                known[key] = row_of(case, targets[spelling])
                print(" | ".join(known[key]))
                _save(known)
    _save(known)
    return 0


def row_of(case: Case, target: Target) -> tuple[str, ...]:
    """One row; what cannot be placed says why."""
    try:
        program = placed(case, target)
        timing = launch_time(program, case.dims)
        check(program, sample(program, case.dims), case.dims, groups=-(-timing.blocks // _BLOCKS), run=(0,))
        within = launch_time(program, case.dims, warm=[p.name for p in program.kernel.params if p.role == "in"])
    except (TilewrightError, InternalError) as error:
        return (
            case.name,
            case.sizes,
            target.spelling,
            *([""] * 9),
            " ".join(str(error).split())[:160].replace("|", "/"),
        )
    (kind, pipe), share = max(timing.busy.items(), key=lambda b: b[1])
    waits = "; ".join(f"{waited:.0%} {k} {p}: {why}" for k, p, why, waited in timing.waits[:2])
    return (
        case.name,
        case.sizes,
        target.spelling,
        f"{timing.cycles:,.0f}",
        f"{timing.microseconds:,.1f}",
        f"{timing.utilisation:.1%}" if timing.peak else "",
        f"{within.utilisation:.1%}" if within.peak else "",
        "" if case.product is None else _possible(case.product, target),
        f"{kind} {pipe} {share:.0%}",
        f"{timing.rates.missed:.0%}",
        f"{timing.blocks} on {timing.groups}",
        waits.replace("|", "/"),
        "" if timing.peak else f"{from_dram(program, case.dims) / timing.cycles:.0%} of what DRAM allows",
    )


def from_dram(program: Placed, dims: Mapping[str, int]) -> float:
    """Cycles that reading all inputs takes at least, every core asking at once; what is written stays in L2."""
    inputs = [program.buffer(p.name) for p in program.kernel.params if p.role != "out"]
    size = sum(math.prod(e.evaluate(dims) for e in b.shape) * b.element_bytes for b in inputs)
    return size / (program.target.extra["cycles"]["dram"] * program.target.units)


def _possible(p: Product, target: Target) -> str:
    """What is possible with everything in DRAM, and with the activations in L2."""
    return " / ".join(f"{most_utilisation(p, target, warm):.0%}" for warm in ((), ("left",)))


def _save(rows: Mapping[tuple[str, ...], tuple[str, ...]]) -> None:
    order = [(c.name, c.sizes, t) for t in TARGETS for c in LAYERS]
    body = [rows[k] for k in order if k in rows]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *("| " + " | ".join(r) + " |" for r in body)]
    TABLE.path.write_text(ABOUT + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
