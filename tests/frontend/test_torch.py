"""Models as PyTorch exports them: every size is an expression of the named dimensions, and equals that of a run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tilewright.errors import CompileError, UsageError
from tilewright.frontend.onnx import import_model
from tilewright.frontend.torch import import_module
from tilewright.ir.evaluate import Evaluator, check_shapes
from tilewright.ir.facts import facts
from tilewright.ir.graph import type_of
from tilewright.ir.verify import verify
from tilewright.ops.infer import verify_types

torch = pytest.importorskip("torch")


class Block(torch.nn.Module):
    """One encoder layer over token ids, with a table of 16 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(50, 16)
        self.positions = torch.nn.Embedding(16, 16)
        self.qkv = torch.nn.Linear(16, 48)
        self.norm = torch.nn.LayerNorm(16)
        self.up, self.down = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        b, s = ids.shape
        x = self.tokens(ids) + self.positions.weight[:s]
        q, k, v = self.qkv(x).view(b, s, 3, 4, 4).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = self.norm(x + a.transpose(1, 2).reshape(b, s, 16))
        return self.down(torch.nn.functional.gelu(self.up(x))).mean(1)


def dynamic() -> dict[int, object]:
    return {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=16)}


def test_a_module_is_traced_and_computes_the_same() -> None:
    torch.manual_seed(0)
    module = Block()
    model = import_module(module, (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes=(dynamic(),))
    verify(model)
    verify_types(model)
    assert [str(type_of(v)) for v in model.graph.inputs] == ["i64[batch, seq]"]
    assert [str(type_of(v)) for v in model.graph.outputs] == ["f32[batch, 16]"]
    assert facts(model)["seq"].hi == 16
    for shape in ((1, 3), (4, 16)):
        ids = torch.randint(0, 50, shape)
        (output,) = Evaluator(model).outputs({model.graph.inputs[0].name or "": ids.numpy()}).values()
        np.testing.assert_allclose(output, module(ids).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_an_exported_program() -> None:
    program = torch.export.export(Block(), (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes=(dynamic(),))
    model = import_module(program, input_shapes={"ids": ("B=1..8", "seq=2..16")})
    assert [str(type_of(v)) for v in model.graph.inputs] == ["i64[B, seq]"]
    assert (facts(model)["B"].lo, facts(model)["B"].hi) == (1, 8)


def test_a_module_without_examples() -> None:
    with pytest.raises(UsageError) as error:
        import_module(Block())
    assert error.value.code == "torch-arguments"


def test_a_module_that_cannot_be_exported() -> None:
    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(CompileError) as error:
        import_module(Branch(), (torch.ones(3),))
    assert error.value.code == "torch-export"


def bert(attention: str) -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                vocab_size=100,
                max_position_embeddings=64,
                attn_implementation=attention,
            )
            self.bert = BertModel(config).eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return hidden, (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

    return Pooled().eval()


def export(module: torch.nn.Module, path: Path, opset: int, dynamo: bool) -> None:
    args = (torch.randint(0, 100, (2, 7)), torch.ones(2, 7, dtype=torch.int64))
    names = ["input_ids", "attention_mask"]
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=64)}
            program = torch.onnx.export(
                module, args, dynamo=True, opset_version=opset, dynamic_shapes=dict.fromkeys(names, axes), verbose=False
            )
            program.save(str(path), external_data=True)
        else:
            dynamic_axes = {n: {0: "batch", 1: "seq"} for n in names}
            torch.onnx.export(
                module, args, str(path), dynamo=False, opset_version=opset, dynamic_axes=dynamic_axes, input_names=names
            )
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("opset", "dynamo"), [(18, True), (20, True), (23, True), (14, False), (17, False)])
def test_bert(tmp_path: Path, attention: str, opset: int, dynamo: bool) -> None:
    path = tmp_path / "bert.onnx"
    export(bert(attention), path, opset, dynamo)
    model = import_model(path, {"input_ids": ("1..32", "?")})
    verify(model)
    verify_types(model)
    assert symbols(model) == {"batch", "seq"}
    assert {n: (r.lo, r.hi) for n, r in facts(model).items()} == {"batch": (1, 32), "seq": (1, 64)}
    evaluator = Evaluator(model)
    for b, s in ((1, 5), (3, 9)):
        inputs = {"input_ids": np.zeros((b, s), np.int64), "attention_mask": np.ones((b, s), np.int64)}
        values = evaluator.all_values(inputs)
        assert len(values) > len(list(model.graph))
        assert check_shapes(model, values) == {"batch": b, "seq": s}


def symbols(model: ir.Model) -> set[str]:
    """Every symbol in the type of every value."""
    values = [v for node in model.graph for v in node.outputs]
    return {s for v in values for size in type_of(v).shape for s in size.symbols}
