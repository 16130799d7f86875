"""Which passes run, in which order, and why; pipelines as text; running them under observation."""

from __future__ import annotations

import ast
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import onnx_ir as ir
from tilewright.errors import InternalError, UsageError
from tilewright.passes.base import Pass, PassResult
from tilewright.passes.canonicalize.canonicalize_casts import CanonicalizeCasts
from tilewright.passes.canonicalize.canonicalize_gemm import CanonicalizeGemm
from tilewright.passes.canonicalize.canonicalize_masks import CanonicalizeMasks
from tilewright.passes.canonicalize.canonicalize_quantization import CanonicalizeQuantization
from tilewright.passes.canonicalize.canonicalize_sizes import CanonicalizeSizes
from tilewright.passes.canonicalize.collect_scales import CollectScales
from tilewright.passes.canonicalize.compose_transposes import ComposeTransposes
from tilewright.passes.canonicalize.decompose_attention import DecomposeAttention
from tilewright.passes.canonicalize.decompose_conv_transpose import DecomposeConvTranspose
from tilewright.passes.canonicalize.decompose_einsum import DecomposeEinsum
from tilewright.passes.canonicalize.decompose_qlinear import DecomposeQlinear
from tilewright.passes.canonicalize.eliminate_common_subexpressions import EliminateCommonSubexpressions
from tilewright.passes.canonicalize.eliminate_dead_code import EliminateDeadCode
from tilewright.passes.canonicalize.eliminate_identity import EliminateIdentity
from tilewright.passes.canonicalize.eliminate_nan_guard import EliminateNanGuard
from tilewright.passes.canonicalize.eliminate_requantization import EliminateRequantization
from tilewright.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from tilewright.passes.canonicalize.fold_constants import FoldConstants
from tilewright.passes.canonicalize.fold_dequantization import FoldDequantization
from tilewright.passes.canonicalize.fold_index_tensors import FoldIndexTensors
from tilewright.passes.canonicalize.merge_views import MergeViews
from tilewright.passes.canonicalize.move_quantization import MoveQuantization
from tilewright.passes.canonicalize.recognise_gelu import RecogniseGelu
from tilewright.passes.canonicalize.recognise_integer_products import RecogniseIntegerProducts
from tilewright.passes.canonicalize.recognise_layer_norm import RecogniseLayerNorm
from tilewright.passes.canonicalize.recognise_rms_norm import RecogniseRmsNorm
from tilewright.passes.canonicalize.recognise_rotary import RecogniseRotary
from tilewright.passes.canonicalize.recognise_softmax import RecogniseSoftmax
from tilewright.passes.canonicalize.recognise_swish import RecogniseSwish
from tilewright.passes.canonicalize.share_heads import ShareHeads
from tilewright.passes.canonicalize.simplify_arithmetic import SimplifyArithmetic
from tilewright.passes.canonicalize.sink_expand import SinkExpand
from tilewright.passes.canonicalize.sink_views import SinkViews
from tilewright.passes.canonicalize.split_projections import SplitProjections
from tilewright.passes.fusion.attention import FuseAttention
from tilewright.passes.fusion.depthwise_pointwise import FuseDepthwisePointwise
from tilewright.passes.fusion.dequantized_table import FuseDequantizedTable
from tilewright.passes.fusion.dequantized_weights import FuseDequantizedWeights
from tilewright.passes.fusion.duplicate_dequantize import DuplicateDequantize
from tilewright.passes.fusion.dynamic_quantize import FuseDynamicQuantize
from tilewright.passes.fusion.elementwise import FuseElementwise
from tilewright.passes.fusion.gated_matmul import FuseGatedMatMul
from tilewright.passes.fusion.layer_norm_residual import FuseLayerNormResidual
from tilewright.passes.fusion.matmul_epilogue import FuseMatMulEpilogue
from tilewright.passes.fusion.merge_parallel_matmuls import MergeParallelMatMuls
from tilewright.passes.fusion.quantized_pool import FuseQuantizedPool
from tilewright.passes.fusion.reduction import FuseReduction
from tilewright.passes.fusion.softmax import FuseSoftmax
from tilewright.passes.layout.assign_layouts import AssignLayouts
from tilewright.passes.layout.cost import LayoutCost


def canonicalization() -> list[Pass]:
    """Passes that give equal computations one spelling, whoever exported them."""
    return [
        CanonicalizeCasts(),  # before FoldConstants: a literal that is cast like a run-time value is a literal
        FoldConstants(),  # early: known sizes and axes as constants are what every other rule asks for
        EliminateIdentity(),  # before any pattern, so that no pattern has to skip over them
        DecomposeQlinear(),  # early: Q and DQ around ordinary operators are what all rules below know
        RecogniseIntegerProducts(),  # before CollectScales and SimplifyArithmetic, which move the scales
        CanonicalizeQuantization(),  # before what compares the parameters of one Q or DQ with another's
        DecomposeAttention(),  # before views and transposes: it makes some
        DecomposeEinsum(),  # likewise
        FoldIndexTensors(),  # needs constants; makes views and Expands
        SinkExpand(),  # after FoldIndexTensors, whose Expands it moves out of the masks
        EliminateIdentity(),  # And(True, x) is left where a comparison was always true, and masks are read below
        CanonicalizeGemm(),  # before SinkViews, which knows MatMul only
        MoveQuantization(),  # after CanonicalizeGemm, which makes Transposes; before transposes and views are composed
        EliminateRequantization(),  # what movement stood between is next to each other now
        RecogniseLayerNorm(),  # before SimplifyArithmetic, which rewrites the Pow in it
        RecogniseRmsNorm(),  # likewise
        RecogniseGelu(),  # likewise
        RecogniseSwish(),
        RecogniseSoftmax(),  # before what looks for a Softmax
        MergeViews(),  # before transposes, which look through one Reshape only
        ComposeTransposes(),
        CollectScales(),  # before ShareHeads: factors no longer stand between a product and its keys
        EliminateNanGuard(),  # after CollectScales: the scores are a product, a scale and a mask by then
        CanonicalizeMasks(),
        ShareHeads(),  # before MergeViews takes the repetition of heads apart
        SinkViews(),  # after Gemm became MatMul; brings views together that MergeViews cancels
        MoveQuantization(),  # behind views that came down to it
        EliminateRequantization(),
        RecogniseRotary(),  # its Transposes cancel below
        ComposeTransposes(),  # of heads that were shared, and of what is turned
        MergeViews(),  # what composing and sinking brought together
        CanonicalizeSizes(),  # sizes that views needed are constants by now; the rest are read from inputs
        DecomposeConvTranspose(),  # after CanonicalizeSizes, as it spells sizes; takes a BatchNormalization with it
        FoldBatchNorm(),
        CanonicalizeQuantization(),  # weights have found their products: those in u8 become i8
        FoldDequantization(),  # the DQs of constants that are left of no use to a product
        SimplifyArithmetic(),
        FoldConstants(),  # constants that the rules above transposed, scaled or compared
        EliminateIdentity(),
        EliminateCommonSubexpressions(),  # late: equal computations look equal by now
        EliminateDeadCode(),  # fusion counts readers, and dead ones count
    ]


def fusion(level: int) -> list[Pass]:
    """Passes that decide what becomes one kernel; the most particular pattern first."""
    return [
        DuplicateDequantize(),  # before all others, which take what only they read
        *([MergeParallelMatMuls()] if level > 2 else []),  # before attention, which takes the Split that it leaves
        FuseAttention(),  # before the softmax or a product in it is taken by a simpler fusion
        FuseDequantizedTable(),  # before norms, which take lookups, and chains, which would take the DequantizeLinear
        FuseDequantizedWeights(),  # likewise; with the epilogue that the next one knows
        FuseMatMulEpilogue(),  # before norms and chains: a residual costs nothing on the accumulator's way out
        FuseLayerNormResidual(),  # sums that no product could take
        FuseQuantizedPool(),  # after contractions, whose results it reads as integers
        FuseDynamicQuantize(),  # after norms, which take the quantization of their rows; before what takes its ends
        FuseReduction(),  # before chains, which would take its ends
        FuseSoftmax(),
        FuseElementwise(),  # what is left over
        EliminateDeadCode(),
    ]


def optional() -> list[Pass]:
    """Passes that are right but that no level runs, each with the reason; ``-p`` and tests reach them by name."""
    return [
        # 768 × 2048 in f32 on AVX2, processor time on a busy machine: one kernel took 1.3, 1.6 and 1.1 times the time
        # of two at 1, 8 and 128 rows. The cause is not known.
        FuseGatedMatMul(),
        # On the shapes of MobileNetV2 (scripts/bench_windows.py, AVX2, one thread) one kernel took 0.96 to 1.46 times
        # the time of two. To be run before FuseMatMulEpilogue by a target where it pays.
        FuseDepthwisePointwise(),
        # One product is faster than several, on one device. The driver runs it for programs on a mesh of them.
        SplitProjections(),
    ]


def layout(cost: LayoutCost | None = None) -> list[Pass]:
    """Passes that decide in which order values lie in memory; the nodes are the kernels by now."""
    return [
        AssignLayouts(cost),  # last: what a kernel reads and writes has to be known
    ]


def default_pipeline(level: int = 2, layout_cost: LayoutCost | None = None) -> list[Pass]:
    """The passes of an optimization level: 0 canonicalizes only, from 1 on operators are fused and values get their
    layouts, 3 also copies weights. What layouts cost on the targets is told by ``layout_cost``.

    Raises :class:`UsageError` for any other level.
    """
    if level not in range(4):
        raise UsageError("bad-level", where=f"level {level}", cause="there is no such level", fix="use 0, 1, 2 or 3")
    return canonicalization() + ([*fusion(level), *layout(layout_cost)] if level > 0 else [])


# -- by name -------------------------------------------------------------------------------------------------------


@cache
def registry() -> Mapping[str, type[Pass]]:
    """Every pass by name."""
    passes = canonicalization() + fusion(level=3) + layout() + optional()
    return {p.name: type(p) for p in sorted(passes, key=lambda p: p.name)}


def parse_pipeline(text: str) -> list[Pass]:
    """Passes from ``"fold-constants{growth=0},fuse-attention"``. Raises :class:`UsageError` for what it cannot read."""
    return [_parse_pass(item) for item in _split(text)]


def print_pipeline(passes: Sequence[Pass]) -> str:
    """The text that :func:`parse_pipeline` reads."""
    return ",".join(p.name + _print_options(p) for p in passes)


def _print_options(p: Pass) -> str:
    if not dataclasses.is_dataclass(p):
        return ""
    set_ = {f.name: getattr(p, f.name) for f in dataclasses.fields(p) if getattr(p, f.name) != f.default}
    return "{" + ",".join(f"{k}={v!r}" for k, v in set_.items()) + "}" if set_ else ""


def _split(text: str) -> list[str]:
    items, depth = [""], 0
    for c in text:
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return [i.strip() for i in items if i.strip()]


def _parse_pass(item: str) -> Pass:
    name, brace, options = item.partition("{")
    found = registry().get(name)
    if found is None:
        raise UsageError(
            "unknown-pass", where=item, cause=f"no pass is called {name!r}", fix=f"one of: {', '.join(registry())}"
        )
    try:
        if brace and not options.endswith("}"):
            raise ValueError("the closing brace is missing")
        pairs = [pair.split("=", 1) for pair in options.rstrip("}").split(",") if pair]
        return found(**{key.strip(): ast.literal_eval(value) for key, value in pairs})
    except (TypeError, ValueError, SyntaxError) as error:
        names: list[str] = [f.name for f in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
        raise UsageError(
            "bad-pass-option",
            where=item,
            cause=str(error),
            fix=f"options of {name}: {', '.join(names) or 'none'}, as {{name=value}}",
        ) from error


# -- running -------------------------------------------------------------------------------------------------------


#: Called after each pass: its name, the model as it now is, what the pass said and its seconds. May raise to stop.
Observer = Callable[[str, ir.Model, PassResult, float], None]


def run_pipeline(model: ir.Model, passes: Sequence[Pass], *observers: Observer) -> bool:
    """Run ``passes`` on ``model`` in place; True when one of them changed it.

    Raises :class:`InternalError`, which names the pass, when a pass fails.
    """
    modified = False
    for index, p in enumerate(passes, start=1):
        started = time.perf_counter()
        try:
            result = p.run(model)
        except (InternalError, AssertionError) as error:
            raise InternalError(f"pass {index}, {p.name}: {error}") from error
        seconds = time.perf_counter() - started
        modified |= result.modified
        for observe in observers:
            observe(p.name, model, result, seconds)
    return modified
