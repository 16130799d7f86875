"""Layouts: what small networks convert, which choices are made where conversions are needed, what the verifier sees."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import onnx_ir as ir
import pytest
from tilewright.errors import InternalError
from tilewright.frontend.onnx import import_model
from tilewright.ir.evaluate import evaluate
from tilewright.ir.graph import type_of
from tilewright.ir.layout import Layout, layout_of, recorded_layouts, set_layout
from tilewright.ir.verify import verify
from tilewright.kernel.print import print_kernel
from tilewright.ops.infer import verify_types
from tilewright.ops.program import Run, lower_graph
from tilewright.options import Options
from tilewright.passes.layout.account import Account, account
from tilewright.passes.layout.assign_layouts import AssignLayouts
from tilewright.passes.layout.choice import Choice
from tilewright.passes.layout.cost import Traffic, traffic_on
from tilewright.passes.pipeline import default_pipeline, run_pipeline
from tilewright.selection import resolve_targets

from models.zoo import small
from tests.ops.interpret import run_interpreted
from tests.passes.harness import assert_equal, body, check_each, feeds_for, graph, ops, proto_of, run
from tests.passes.networks import NETWORKS, random_network

SIZES = {"B": 2, "H": 8}

#: Kernels, conversions and bytes converted (at SIZES) of each network. A change here needs its reason.
GOLDEN = {
    "resnet": Account(11, 0, 0),
    "mobilenet": Account(14, 0, 0),
    "squeezenet": Account(12, 0, 0),
    "densenet": Account(11, 0, 0),
    "unet": Account(6, 0, 0),
    "positions": Account(4, 0, 0),
    "middle_output": Account(5, 1, 2 * 16 * 16 * 16 * 4),  # the output wants what the window after it does not
    "image_to_image": Account(
        3, 1, 2 * 16 * 8 * 32 * 4
    ),  # nine reads across memory or one copy; the end is stored as is
    "tensorflow": Account(3, 0, 0),
    "patches": Account(3, 0, 0),
}


def before_layout(name: str) -> ir.Model:
    """A network after all other passes."""
    model = import_model(NETWORKS[name]())
    run_pipeline(model, [p for p in default_pipeline() if p.name != "assign-layouts"])
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str) -> None:
    """Every state is valid and means the same; so do the kernels that come of the last."""
    model = import_model(NETWORKS[name]())
    feeds = feeds_for(model, sizes=SIZES)
    want = evaluate(proto_of(model), feeds)
    check_each(model, [p for p in default_pipeline() if p.name != "assign-layouts"], feeds)
    run(AssignLayouts(), model, feeds)
    verify(model)
    verify_types(model)
    assert account(model, SIZES) == GOLDEN[name]
    images = [v for v in model.graph.initializers.values() if type_of(v).rank == 4]
    assert all(v.uses() for v in images), "what was put into another order is not kept twice"
    assert_equal(run_interpreted(model, dict(feeds)), want)


def test_images_of_any_size() -> None:
    """With batch, height and width open no choice is another one, and rows of one-entry windows still merge."""
    proto = NETWORKS["resnet"]()
    *_, height, width = proto.graph.input[0].type.tensor_type.shape.dim
    height.dim_param, width.dim_param = "H", "W"
    model = import_model(proto)
    sizes = {"B": 2, "H": 24, "W": 17}
    feeds = feeds_for(model, sizes=sizes)
    want = evaluate(proto_of(model), feeds)
    run_pipeline(model, default_pipeline())
    verify(model)
    assert account(model, sizes) == GOLDEN["resnet"]
    rows = [s.kernel.params[0].shape for s in lower_graph(model) if isinstance(s, Run)]
    assert sum(len(shape) == 2 and {"B", "H", "W"} <= shape[0].symbols for shape in rows) == 4
    assert_equal(run_interpreted(model, dict(feeds)), want)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    """Whatever is connected with what: valid, the same numbers, nothing left to do, with and without fusion."""
    model = import_model(random_network(seed))
    feeds = feeds_for(model, sizes=SIZES)
    want = evaluate(proto_of(model), feeds)
    if seed % 2:
        run_pipeline(model, [p for p in default_pipeline() if p.name != "assign-layouts"])
    run(AssignLayouts(), model, feeds)
    verify(model)
    verify_types(model)
    assert_equal(run_interpreted(model, dict(feeds)), want)


#: Kernels of whole models, narrow and few blocks deep. Those of published depth convert nothing either.
ZOO = {"resnet50": 12, "mobilenetv2": 12, "vit-b16": None}  # what is made of a transformer is others' to say


@pytest.mark.parametrize("name", ZOO)
def test_models_convert_nothing(name: str, tmp_path: Path) -> None:
    model = import_model(small()[name].build(tmp_path))
    run_pipeline(model, default_pipeline())
    verify(model)
    found = account(model, {"batch": 2})
    assert (found.conversions, found.converted) == (0, 0)
    assert ZOO[name] in (None, found.kernels)


def test_windows_read_and_write_rows_of_channels() -> None:
    """Beyond the first, every window of the residual network has the channels last in all it touches."""
    model = before_layout("resnet")
    AssignLayouts().run(model)
    kernels = [step.kernel for step in lower_graph(model) if isinstance(step, Run)]
    windows = [k for k in kernels if k.name in ("fused_conv", "fused_max_pool")]
    assert len(windows) == 9
    texts = [[str(p.shape[-1]) for p in k.params if len(p.shape) != 1 and p.role != "const"] for k in windows]
    assert texts[0] == ["32", "16"]  # the image as it comes, to rows of 16 channels
    assert all(int(size) in (8, 16, 32) for sizes in texts[1:] for size in sizes)


CONV_3X3 = """\
@kernel
def fused_conv(x0: f32[B, 8, 8, 8], x1: const[f32[8, 8, 3, 3]], x2: const[f32[8]], y0: out[f32[16*B, 8]]):
    where(1 <= B)
    m: 16*B
    n: 8
    k: 3
    k1: 3
    c: 8
    acc[m, n] = sum((k, k1, c), (x0[m // 16, k + 2*((m // 4) % 4) - 1, k1 + 2*(m % 4) - 1, c] or 0) * x1[n, c, k, k1])
    y0[m, n] = max(acc[m, n] + x2[n], f32(0.0))
"""
CONV_1X1 = """\
@kernel
def fused_conv(x0: f32[64*B, 8], x1: const[f32[16, 8, 1, 1]], x2: const[f32[16]], x3: f32[64*B, 16], \
y0: out[f32[64*B, 16]]):
    where(1 <= B)
    m: 64*B
    n: 16
    c: 8
    acc[m, n] = sum(c, x0[m, c] * x1[n, c, 0, 0])
    y0[m, n] = max(acc[m, n] + x2[n] + x3[m, n], f32(0.0))
"""
DEPTHWISE = """\
@kernel
def fused_conv(x0: f32[B, 16, 16, 48], x1: const[f32[48, 1, 3, 3]], x2: const[f32[48]], y0: out[f32[B, 8, 8, 48]]):
    where(1 <= B)
    a: B
    b: 8
    m: 8
    n: 48
    k: 3
    k1: 3
    acc[a, b, m, n] = sum((k, k1), (x0[a, 2*b + k - 1, k1 + 2*m - 1, n] or 0) * x1[n, 0, k, k1])
    y0[a, b, m, n] = min(max(acc[a, b, m, n] + x2[n], f32(0.0)), f32(6.0))
"""
POOL = """\
@kernel
def fused_max_pool(x0: f32[B, 16, 16, 16], y0: out[f32[B, 8, 8, 16]]):
    where(1 <= B)
    a: B
    b: 8
    m: 8
    n: 16
    k: 3
    k1: 3
    top[a, b, m, n] = max((k, k1), (x0[a, 2*b + k - 1, k1 + 2*m - 1, n] or -inf))
    y0[a, b, m, n] = top[a, b, m, n]
"""


@pytest.mark.parametrize(
    ("name", "text"), [("resnet", CONV_3X3), ("resnet", CONV_1X1), ("mobilenet", DEPTHWISE), ("resnet", POOL)]
)
def test_kernels_in_tile_ir(name: str, text: str) -> None:
    """Channels are the last of the sum and of what is stored; a window of one entry is a matrix product of all rows."""
    model = before_layout(name)
    AssignLayouts().run(model)
    assert text in [print_kernel(step.kernel) for step in lower_graph(model) if isinstance(step, Run)]


#: What follows a convolution in one kernel.
EPILOGUES = {
    "relu": ("y = Relu(n)", "Conv Relu"),
    "relu6": ("y = Clip(n, zero, six)", "Conv Clip"),
    "hard-swish": ("y = HardSwish(n)", "Conv HardSwish"),
    "hard-swish-in-pieces": (
        "p = Add(n, three) q = Clip(p, zero, six) r = Mul(n, q) y = Div(r, six)",
        "Conv Add Clip Mul Div",
    ),
    "silu": ("s = Sigmoid(n) y = Mul(n, s)", "Conv Swish"),
    "silu-and-residual": ("s = Sigmoid(n) t = Mul(n, s) y = Add(t, x)", "Conv Swish Add"),
    "residual-and-leaky-relu": ("s = Add(x, n) y = LeakyRelu(s)", "Conv Add LeakyRelu"),
    "prelu": ("y = PRelu(n, slope)", "Conv PRelu"),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_convolution_normalization_residual_and_activation_are_one_kernel(name: str) -> None:
    tail, operators = EPILOGUES[name]
    model = graph(
        "g (float[B,4,5,5] x) => (float[B,4,5,5] y) <float[4] s0 = {0.5,2,1,3}, float[4] b = {1,-1,0,2}, "
        "float[4] m = {0.1,0.2,-1,0.3}, float[4] v = {1,4,0.5,2}, float zero = {0}, float three = {3}, "
        "float six = {6}, float[4,4,1,1] u = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}, "
        "float[4,1,1] slope = {0.1,0.2,0.3,0.4}> "
        "{ c = Conv(x, u) n = BatchNormalization(c, s0, b, m, v) " + tail + " }"
    )
    check_each(model, default_pipeline())
    (fused,) = [n for n in model.graph if n.op_type == "FusedConv"]
    assert body(model, fused).replace("Transpose ", "").replace(" Transpose", "") == operators
    assert account(model, SIZES).kernels == 1


#: graph, operators of the graph afterwards, bodies.
CHOICES = [
    (  # one window alone: its few channels are read as they are, and what it computes is stored as it is wanted
        "g (float[B,3,16,16] x, float[16,3,3,3] w) => (float[B,16,14,14] y) { y = Conv(x, w) }",
        "Conv",
        [],
    ),
    (  # two readers of one conversion share it
        "g (float[B,16,16,16] x, float[16,16,3,3] w) => (float[B,16,14,14] y, float[B,16,14,14] z) "
        "{ y = Conv(x, w) z = Conv(x, w) }",
        "Transpose FusedConv FusedConv",
        ["Transpose Conv"] * 2,
    ),
    (  # a mean over the image takes either order: nothing to store again
        "g (float[B,16,16,16] x, float[16,16,1,1] w, float[16,16,1,1] v) => (float[B,16,1,1] y) "
        "{ a = Conv(x, w) b = Conv(a, v) y = GlobalAveragePool(b) }",
        "FusedConv FusedConv FusedGlobalAveragePool",
        ["Conv Transpose", "Transpose Conv Transpose", "Transpose GlobalAveragePool"],
    ),
    (  # no window, no reason
        "g (float[B,16,8,8] x) => (float[B,8,8,16] y) { a = Relu(x) y = Transpose<perm=[0,2,3,1]>(a) }",
        "Relu Transpose",
        [],
    ),
]


@pytest.mark.parametrize(("text", "after", "bodies"), CHOICES, ids=range(len(CHOICES)))
def test_choices(text: str, after: str, bodies: list[str]) -> None:
    model = graph(text)
    feeds = feeds_for(model)
    want = evaluate(proto_of(model), feeds)
    run(AssignLayouts(), model)
    verify(model)
    assert ops(model) == after
    assert [body(model, n) for n in model.graph if n.domain] == bodies
    assert_equal(run_interpreted(model, dict(feeds)), want)


def test_a_conversion_is_explained() -> None:
    model = before_layout("middle_output")
    result = AssignLayouts().run(model)
    assert [str(m) for m in result.misses] == ["v2: converted (f32[B, 16, 16, 16]): it is an output of the model"]


def test_costs_decide() -> None:
    """Where copies cost nothing a window gets its channels; where they are dear it takes what there is."""
    text = "g (float[B,16,16,16] x, float[16,16,1,1] w) => (float[B,16,16,16] y) { y = Conv(x, w) }"
    cheap, dear = graph(text), graph(text)
    AssignLayouts(Traffic(launch=0.0, share=1e9)).run(cheap)
    AssignLayouts(Traffic(launch=1.0)).run(dear)
    assert (ops(cheap), ops(dear)) == ("Transpose FusedConv Transpose", "Conv")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_target_of_the_cpu_chooses_the_same(name: str) -> None:
    """What is golden for the default cost is so for the targets that are compiled for."""
    targets = [target for _, target in resolve_targets(Options(targets=("cpu", "cpu:aarch64")))]
    model = before_layout(name)
    AssignLayouts(traffic_on(targets)).run(model)
    assert account(model, SIZES) == GOLDEN[name]


# -- the record ------------------------------------------------------------------------------------------------------


def assigned() -> ir.Model:
    model = before_layout("middle_output")
    AssignLayouts().run(model)
    return model


def test_records_survive_a_file() -> None:
    model = assigned()
    again = ir.from_proto(proto_of(model))
    want = [(v.name, str(layout)) for v, layout in recorded_layouts(model)]
    assert want == [(v.name, str(layout)) for v, layout in recorded_layouts(again)]
    assert {layout for _, layout in want} == {"0,2,3,1"}


@pytest.mark.parametrize(
    ("order", "piece"),
    [((0, 3, 1, 2), "does not end with that"), ((0, 2, 1), "its layout is"), ((0, 1, 3, 2), "does not end with that")],
)
def test_a_wrong_record_is_seen(order: tuple[int, ...], piece: str) -> None:
    model = assigned()
    value, _ = next(recorded_layouts(model))
    set_layout(value, Layout(order))
    with pytest.raises(InternalError, match=piece):
        verify(model)


def test_a_reader_in_another_order_is_seen() -> None:
    """An operator that takes memory for the operators' order, of equal sizes: valid ONNX, wrong all the same."""
    model = assigned()
    value, _ = next(recorded_layouts(model))
    wrong = ir.Node("", "Relu", [value])
    wrong.outputs[0].name = "wrong"
    wrong.outputs[0].type, wrong.outputs[0].shape = value.type, value.shape
    model.graph.append(wrong)
    with pytest.raises(InternalError, match="Relu reads"):
        verify(model)


def test_a_value_without_layout_has_none() -> None:
    model = assigned()
    assert all(layout_of(v) is None for v in model.graph.outputs)
    with pytest.raises(InternalError, match="permutation"):
        Layout((0, 2, 2))
    assert Layout((0, 2, 3, 1)).of("NCHW") == tuple("NHWC")
    assert Layout((0, 2, 3, 1)).inverse.of("NHWC") == tuple("NCHW")


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    """Against all assignments, on random problems of eight things."""
    rng = random.Random(seed)
    things = list(range(8))
    choice = Choice()
    terms = []
    for _ in range(14):
        a, b, c = rng.sample(things, 3)
        cost = float(rng.randint(1, 9))
        match rng.randrange(3):
            case 0:
                label = rng.randrange(2)
                choice.cost(a, zero=cost * (label == 0), one=cost * (label == 1))
                terms.append(lambda x, a=a, label=label, cost=cost: cost * (x[a] == label))
            case 1:
                choice.differ(a, b, cost)
                terms.append(lambda x, a=a, b=b, cost=cost: cost * (x[a] != x[b]))
            case 2:
                choice.shared(a, [b, c], cost)
                terms.append(lambda x, a=a, b=b, c=c, cost=cost: cost * (x[b] != x[a] or x[c] != x[a]))
    choice.fix(0, 1)
    choice.tie(1, 2)
    allowed = [x for x in itertools.product((0, 1), repeat=8) if x[0] == 1 and x[1] == x[2]]
    best = min(sum(t(x) for t in terms) for x in allowed)
    labels = choice.solve()
    found = tuple(labels.get(t, 0) for t in things)
    assert found in allowed
    assert sum(t(found) for t in terms) == best
    assert sum(found) == min(sum(x) for x in allowed if sum(t(x) for t in terms) == best)


def test_a_contradiction_is_an_error() -> None:
    choice = Choice()
    choice.fix("a", 0)
    choice.fix("b", 1)
    choice.tie("a", "b")
    with pytest.raises(InternalError, match="contradict"):
        choice.solve()
