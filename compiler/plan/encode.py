"""Plans as bytes: what the executor in an artifact reads (``compiler/runtime/native/read.c``).

The member is a header (magic, version, number of words, bytes of strings), 32-bit little-endian words, then
zero-terminated UTF-8 strings that words name by offset. Size expressions are postfix code, each distinct one once for
an entry point; instructions name them by index. What the executor needs and a :class:`Plan` does not hold is added
here: for each temporary, the first and last instruction that use it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tilewright.errors import InternalError
from tilewright.ir.symbolic import Expr, Operation, Symbol
from tilewright.plan.memory import live_intervals
from tilewright.plan.plan import (
    Allocate,
    Assert,
    BufferKind,
    Call,
    Copy,
    EntryPoint,
    Free,
    HostLaunch,
    Instruction,
    Jump,
    Launch,
    LoadScalar,
    Plan,
    Return,
    SetScalar,
    Signature,
    Space,
)
from tilewright.plan.verify import local_symbols, verify_plan

MAGIC = 0x4C505754  # "TWPL"
VERSION = 2
#: Stands for "none" where an index is expected.
NONE = 0xFFFFFFFF
#: Order of buffer kinds, instructions and expression operations in the format; append only.
BUFFER_KINDS: tuple[BufferKind, ...] = ("input", "output", "constant", "temporary", "state")
SPACES: tuple[Space, ...] = ("device", "host")
INSTRUCTIONS = (Launch, Copy, LoadScalar, Assert, Allocate, Free, Jump, SetScalar, Call, Return, HostLaunch)
OPERATIONS = ("constant", "symbol", "+", "*", "//", "%", "min", "max")
#: Values that an expression may have pending (``STACK_LIMIT`` of ``executor.h``).
STACK_LIMIT = 32
_CODE = {name: i for i, name in enumerate(OPERATIONS)}


class Strings:
    """The table of zero-terminated strings; equal ones once."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}
        self.data = bytearray()

    def add(self, text: str) -> int:
        """The offset of ``text``. Raises ``ValueError`` when it holds a zero character."""
        if "\0" in text:
            raise ValueError(f"{text!r} holds a zero character")
        if text not in self._offsets:
            self._offsets[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._offsets[text]


def encode_plan(plan: Plan) -> bytes:
    """The bytes of ``plan``, verified first. Equal plans give equal bytes. Raises ``InternalError``."""
    verify_plan(plan)
    strings = Strings()
    strings.add("")
    words = [w for names in (plan.kernels, plan.host_kernels) for w in (len(names), *map(strings.add, names))]
    words.append(len(plan.constants))
    for constant in plan.constants:
        words += [strings.add(constant.name), constant.dtype.onnx, len(constant.shape)]
        words += [w for d in constant.shape for w in _wide(d)]
    words.append(len(plan.entries))
    for entry in plan.entries:
        words += _EntryEncoder(entry, strings).words
    header = struct.pack("<4I", MAGIC, VERSION, len(words), len(strings.data))
    return header + struct.pack(f"<{len(words)}I", *words) + bytes(strings.data)


def _wide(value: int) -> tuple[int, int]:
    unsigned = value & (2**64 - 1)
    return unsigned & 0xFFFFFFFF, unsigned >> 32


def postfix(expr: Expr, symbols: dict[str, int]) -> list[int]:
    """Postfix words of an expression; ``symbols`` maps names to indices."""
    words: list[int] = []
    # Constants last, so that nested operations come first and the stack stays shallow.
    for i, (monomial, coefficient) in enumerate(reversed(expr.terms)):
        factors = [f for atom, power in monomial for f in [_atom(atom, symbols)] * power]
        if coefficient != 1 or not monomial:
            factors.append([_CODE["constant"], *_wide(coefficient)])
        for k, factor in enumerate(factors):
            words += factor + ([_CODE["*"]] if k else [])
        if i:
            words.append(_CODE["+"])
    return words or [_CODE["constant"], 0, 0]


def stack_depth(words: list[int]) -> int:
    """The most values that postfix code has pending."""
    depth = most = at = 0
    while at < len(words):
        operation = OPERATIONS[words[at]]
        at += {"constant": 3, "symbol": 2}.get(operation, 1)
        depth += 1 if operation in ("constant", "symbol") else -1
        most = max(most, depth)
    return most


def _atom(atom: Symbol | Operation, symbols: dict[str, int]) -> list[int]:
    if isinstance(atom, Symbol):
        return [_CODE["symbol"], symbols[atom.name]]
    words: list[int] = []
    for i, arg in enumerate(atom.args):
        words += postfix(arg, symbols) + ([_CODE[atom.op]] if i else [])
    return words


class _EntryEncoder:
    """One entry point: body first, so that the table of expressions before it is complete."""

    def __init__(self, entry: EntryPoint, strings: Strings):
        self._strings = strings
        locals_ = local_symbols(entry)
        names = [name for name, _ in entry.symbols] + locals_
        self._symbols = {name: i for i, name in enumerate(names)}
        self._exprs: dict[Expr, int] = {}
        head = [strings.add(entry.name), len(entry.symbols)]
        for name, known in entry.symbols:
            head += [strings.add(name), *_wide(known.lo), *_wide(known.hi), *_wide(known.divisor)]
        head += [len(locals_), *map(strings.add, locals_)]
        body = self._signatures(entry.inputs) + self._signatures(entry.outputs)
        body += [len(entry.states), *(i for pair in entry.states for i in pair)]
        body += [*self._buffers(entry), len(entry.code)]
        for instruction in entry.code:
            operands = self._operands(instruction)
            body += [INSTRUCTIONS.index(type(instruction)) | len(operands) << 8, *operands]
        table = [len(self._exprs)]
        for expr in self._exprs:
            code = postfix(expr, self._symbols)
            if stack_depth(code) > STACK_LIMIT:
                raise InternalError(f"plan entry {entry.name!r}: {expr} nests too deeply")
            table += [len(code), *code]
        self.words = head + table + body

    def _expr(self, expr: Expr) -> int:
        return self._exprs.setdefault(expr, len(self._exprs))

    def _signatures(self, signatures: tuple[Signature, ...]) -> list[int]:
        words = [len(signatures)]
        for s in signatures:
            shape = f"[{', '.join(map(str, s.shape))}]"
            words += [self._strings.add(s.name), self._strings.add(shape), s.dtype.onnx, len(s.shape)]
            words += [self._expr(d) for d in s.shape]
        return words

    def _buffers(self, entry: EntryPoint) -> list[int]:
        words = [len(entry.buffers)]
        live = live_intervals(entry)
        for i, b in enumerate(entry.buffers):
            first, last = live.get(i, (NONE, NONE))
            base = NONE if b.base is None else b.base
            kind = BUFFER_KINDS.index(b.kind) | SPACES.index(b.space) << 8
            words += [kind, b.index, self._expr(b.size), base, self._expr(b.offset), first, last]
        return words

    def _operands(self, instruction: Instruction) -> list[int]:
        e = self._expr
        match instruction:
            case Launch(kernel, buffers, dims, grid, scratch) | HostLaunch(kernel, buffers, dims, grid, scratch):
                return [kernel, e(grid), e(scratch), len(buffers), len(dims), *buffers, *map(e, dims)]
            case Copy(source, target, size):
                return [source, target, e(size)]
            case LoadScalar(name, buffer, dtype, element):
                return [self._symbols[name], buffer, dtype.onnx, e(element)]
            case Assert(expr, lo, hi, message):
                return [e(expr), e(lo), e(hi), self._strings.add(message)]
            case Allocate(buffer) | Free(buffer):
                return [buffer]
            case Jump(to, condition):
                return [to, NONE if condition is None else e(condition)]
            case SetScalar(name, expr):
                return [self._symbols[name], e(expr)]
            case Call(entry, inputs, outputs, symbols):
                return _call(entry, inputs, outputs, [e(s) for s in symbols])
            case Return():
                return []


def _call(entry: int, inputs: Iterable[int], outputs: Iterable[int], symbols: list[int]) -> list[int]:
    inputs, outputs = list(inputs), list(outputs)
    return [entry, len(inputs), len(outputs), len(symbols), *inputs, *outputs, *symbols]
