"""What a user can do about a node that is not supported; and why whole operators are not."""

from __future__ import annotations

from tilewright.ops.problem import Problem

#: Words in a reason, and what to do about it; the first that is found decides.
_BY_REASON = (
    (
        ("run-time values", "run time", "not constant"),
        "make this operand a constant in the model, or fix the sizes it is computed from with --input-shape",
    ),
    (
        ("quantize the model without",),
        "quantize the model again without ONNX Runtime's transformer optimizer, or leave these layers in float "
        "(op_types_to_quantize of onnxruntime.quantization)",
    ),
    (("random",), "make the random numbers an input of the model"),
    (("element type",), "cast to float32 (or int64) before this node and back after it"),
    (("too complicated", "as complicated as"), "fix sizes with --input-shape, so that fewer of them stay open"),
    (
        ("no lowering", "no such operator", "no routine"),
        "write it with supported operators (`tilewright check --operators` lists them), or run this part elsewhere",
    ),
)
_OTHERWISE = "export the model with another opset or exporter, which may write this node in another form"

#: Why operators of the ONNX domain are not supported, where there is a reason of their own.
ABSENT: dict[str, str] = {
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        "sequences are not compiled: every value is one tensor",
    ),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), "optional values are not compiled"),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"),
        "strings have no kernels on any target",
    ),
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        "random numbers: an artifact gives the same result for the same inputs",
    ),
    "ImageDecoder": "decoding image files is left to the program around the model",
}

#: What a pass writes with other operators, and with which.
REWRITTEN: dict[str, str] = {
    "Attention": "as products and a softmax, which are one kernel",
    "QLinearConv": "as QuantizeLinear and DequantizeLinear around Conv, which is computed on the integers",
    "QLinearMatMul": "as QuantizeLinear and DequantizeLinear around MatMul, which is computed on the integers",
}


def way_round(problem: Problem) -> str:
    """What a user can do, in one sentence."""
    operator = problem.operator.partition(" ")[0]
    if "::" in operator and "no such operator" in problem.reason:
        return "define it as a local function of the model, made of ONNX operators; those are inlined and compiled"
    if operator in ("If", "Loop", "Scan"):
        return "export with the branch chosen or the loop unrolled, or run the loop in the program around the model"
    for words, way in _BY_REASON:
        if any(word in problem.reason for word in words):
            return way
    return _OTHERWISE
