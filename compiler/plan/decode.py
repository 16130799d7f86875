"""Plan bytes back to a :class:`Plan` (see :mod:`tilewright.plan.encode`), for inspection."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

from tilewright.errors import InternalError
from tilewright.ir.ranges import Range
from tilewright.ir.symbolic import Expr, constant, floordiv, maximum, minimum, mod, symbol
from tilewright.ir.types import DType
from tilewright.plan.encode import BUFFER_KINDS, INSTRUCTIONS, MAGIC, NONE, OPERATIONS, SPACES, VERSION
from tilewright.plan.plan import (
    Allocate,
    Assert,
    Buffer,
    Call,
    Constant,
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
)
from tilewright.plan.verify import verify_plan

T = TypeVar("T")
_BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": floordiv,
    "%": mod,
    "min": minimum,
    "max": maximum,
}


def decode_plan(data: bytes) -> Plan:
    """The plan of ``data``. Raises ``ValueError`` for bytes that ``encode_plan`` did not write."""
    try:
        magic, version, words, strings = struct.unpack_from("<4I", data)
        if magic != MAGIC or version != VERSION or len(data) != 16 + 4 * words + strings:
            raise ValueError("not a plan of this version")
        return _Decoder(struct.unpack_from(f"<{words}I", data, 16), data[16 + 4 * words :]).plan()
    except (struct.error, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"a damaged plan: {error!r}") from error


def checked_plan(data: bytes) -> Plan:
    """The plan of bytes that somebody sent. Raises ``ValueError`` for what the executor would refuse, too."""
    plan = decode_plan(data)
    try:
        verify_plan(plan)
    except InternalError as error:
        raise ValueError(f"a damaged plan: {error}") from None
    return plan


class _Decoder:
    def __init__(self, words: tuple[int, ...], strings: bytes):
        self._words, self._strings, self._at = words, strings, 0
        self._exprs: list[Expr] = []
        self._names: list[str] = []

    def _word(self) -> int:
        self._at += 1
        return self._words[self._at - 1]

    def _wide(self) -> int:
        low = self._word()
        value = low | self._word() << 32
        return value - 2**64 if value >= 2**63 else value

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def _string(self) -> str:
        return self._text(self._word())

    def _many(self, read: Callable[[], T], count: int | None = None) -> tuple[T, ...]:
        count = self._word() if count is None else count
        if count > len(self._words) - self._at:
            raise ValueError("a count is larger than what is left")
        return tuple(read() for _ in range(count))

    def plan(self) -> Plan:
        kernels, host_kernels = self._many(self._string), self._many(self._string)
        constants = self._many(self._constant)
        entries = self._many(self._entry)
        if self._at != len(self._words):
            raise ValueError("words are left over")
        return Plan(entries, constants, kernels, host_kernels)

    def _constant(self) -> Constant:
        return Constant(self._string(), DType.from_onnx(self._word()), self._many(self._wide))

    def _entry(self) -> EntryPoint:
        name = self._string()
        symbols = self._many(self._symbol)
        self._names = [n for n, _ in symbols] + list(self._many(self._string))
        self._exprs = list(self._many(self._postfix))
        inputs, outputs = self._many(self._signature), self._many(self._signature)
        states = self._many(lambda: (self._word(), self._word()))
        buffers = self._many(self._buffer)
        return EntryPoint(name, inputs, outputs, states, symbols, buffers, self._many(self._instruction))

    def _symbol(self) -> tuple[str, Range]:
        return self._string(), Range(self._wide(), self._wide(), self._wide())

    def _postfix(self) -> Expr:
        end = self._word() + self._at
        stack: list[Expr] = []
        while self._at < end:
            operation = OPERATIONS[self._word()]
            if operation == "constant":
                stack.append(constant(self._wide()))
            elif operation == "symbol":
                stack.append(symbol(self._names[self._word()]))
            else:
                right = stack.pop()
                stack.append(_BINARY[operation](stack.pop(), right))
        if len(stack) != 1:
            raise ValueError("an expression leaves no single value")
        return stack[0]

    def _expr(self) -> Expr:
        return self._exprs[self._word()]

    def _signature(self) -> Signature:
        name, _ = self._string(), self._string()
        return Signature(name, DType.from_onnx(self._word()), self._many(self._expr))

    def _buffer(self) -> Buffer:
        word, index, size, base = self._word(), self._word(), self._expr(), self._word()
        offset, _first, _last = self._expr(), self._word(), self._word()
        kind, space = BUFFER_KINDS[word & 0xFF], SPACES[word >> 8]
        return Buffer(kind, size, index, None if base == NONE else base, offset, space)

    def _instruction(self) -> Instruction:
        kind = INSTRUCTIONS[self._word() & 0xFF]
        word, expr = self._word, self._expr
        if kind is Launch or kind is HostLaunch:
            kernel, grid, scratch, buffers, dims = word(), expr(), expr(), word(), word()
            return kind(kernel, self._many(word, buffers), self._many(expr, dims), grid, scratch)
        if kind is Copy:
            return Copy(word(), word(), expr())
        if kind is LoadScalar:
            return LoadScalar(self._names[word()], word(), DType.from_onnx(word()), expr())
        if kind is Assert:
            return Assert(expr(), expr(), expr(), self._string())
        if kind is Allocate:
            return Allocate(word())
        if kind is Free:
            return Free(word())
        if kind is Jump:
            to, condition = word(), word()
            return Jump(to, None if condition == NONE else self._exprs[condition])
        if kind is SetScalar:
            return SetScalar(self._names[word()], expr())
        if kind is Call:
            entry, inputs, outputs, symbols = word(), word(), word(), word()
            return Call(entry, self._many(word, inputs), self._many(word, outputs), self._many(expr, symbols))
        return Return()
