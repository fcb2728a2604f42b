"""A failure in words: the check, the smallest input found, the mismatch, and a program that fails the same way."""

from __future__ import annotations

import re
import sys
from typing import Any

import torch
from torch import Tensor

from qbench import Mismatch
from qkernels.compare.reproduce import format_source, tensor_source
from qkernels.testing.inputs import DTYPES, Sample
from qkernels.testing.product import Product
from qkernels.testing.subject import Subject

WRITTEN_AS_NUMBERS = 160
WRITTEN_AS_BITS = 1024
"""Inputs of so many elements or fewer are written out; larger ones are made by the call that made them."""

_MAKERS = ("boundaries", "drawn", "nonfinite", "ties", "from_bits")


def describe(subject: Subject, check: str, sample: Sample, mismatch: Mismatch) -> str:
    """The message of the error."""
    aspect = f" ({sample.aspect})" if sample.aspect else ""
    options = "".join(f", {name}={value}" for name, value in _options(subject).items())
    m, k = sample.x.shape
    lines = [f'{subject.name} is not a correct {subject.format.name} quantizer{options}: check "{check}"{aspect}',
             f"case: {str(sample.x.dtype)[6:]} [{m}, {k}], {sample.layout}, {_values(sample.x)}",
             *without_reproducer(mismatch), "reproduce with:",
             indent(reproducer(subject, check, sample))]  # fmt: skip
    return "\n".join(lines)


def indent(program: str) -> str:
    return "\n".join("    " + line if line else "" for line in program.splitlines())


def without_reproducer(mismatch: Mismatch) -> list[str]:
    """The comparator shows the reference on this input; the program below runs what is tested as well."""
    lines = str(mismatch).splitlines()
    if "  to reproduce:" not in lines:
        return lines
    start = lines.index("  to reproduce:")
    after = [line for line in lines[start + 1 :] if not line.startswith("    ")]
    return lines[:start] + after


def reproducer(subject: Subject, check: str, sample: Sample) -> str:
    """A program that runs the check on this input alone, and fails as it failed."""
    made = written_out(sample.x) or [f"x = {sample.code}"]
    makers = [name for name in _MAKERS if f"{name}(" in "\n".join(made)]
    named: dict[str, Any] = {"check": check}
    named |= {"aspect": sample.aspect} if sample.aspect else {}
    named |= {"layout": sample.layout} if sample.layout != "contiguous" else {}
    named |= _options(subject)
    named |= {"device": str(subject.device)} if subject.device.type != "cpu" else {}
    arguments = ", ".join(f"{name}={value!r}" for name, value in named.items())
    return "\n".join(
        [
            "import qkernels",
            "import torch",
            "from qkernels.testing import replay",
            *([f"from qkernels.testing.strategies import {', '.join(makers)}"] if makers else []),
            _import_of(subject.provider),
            "",
            *made,
            f"replay({_name_of(subject.provider)}, {format_source(subject.format)}, x, {arguments})",
        ]
    )


def product_reproducer(product: Product, check: str, examples: int) -> str:
    """A program that runs one check of a product alone, and fails as it failed: its cases follow from seeds."""
    kind = product.kind
    arguments = [_name_of(product.provider), format_source(kind.weight)]
    arguments += [format_source(kind.activation)] if kind.activation is not None else []
    arguments += ["bias=True"] if kind.bias else []
    arguments += [f"dtypes={list(kind.dtypes)}"] if kind.dtypes != DTYPES else []
    arguments += [f"out_dtype={kind.out_dtype}"] if kind.out_dtype is not None else []
    arguments += [f"examples={examples}", f"device={str(product.device)!r}", f"checks={[check]!r}"]
    return "\n".join(
        [
            "import qkernels",
            "import torch",
            "from qkernels.testing import check_gemm",
            _import_of(product.provider),
            "",
            f"check_gemm({', '.join(arguments)})",
        ]
    )


def written_out(x: Tensor) -> list[str] | None:
    """Lines that make x [M, K] from its values, None if it is too large for that."""
    m, k = x.shape
    if x.numel() == 0:
        return [f"x = torch.empty({m}, {k}, dtype={x.dtype})"]
    bits = x.view(torch.int32 if x.element_size() == 4 else torch.int16)
    if bool((bits == bits[0, 0]).all()):
        return [f"x = torch.full(({m}, {k}), {_number(x[0, 0])}, dtype={x.dtype})"]
    if int((bits != 0).sum()) <= 8 < x.numel():
        lines = [f"x = torch.zeros({m}, {k}, dtype={x.dtype})"]
        return lines + [
            f"x[{row}, {column}] = {_number(x[row, column])}" for row, column in bits.nonzero().tolist()
        ]
    if x.numel() <= WRITTEN_AS_NUMBERS:
        rows = [f"    [{', '.join(_number(value) for value in row)}]," for row in x]
        return ["x = torch.tensor([", *rows, f"], dtype={x.dtype})"]
    return [f"x = {tensor_source(x)}"] if x.numel() <= WRITTEN_AS_BITS else None


def _number(value: Tensor) -> str:
    """Few digits that read back as the value; NaN loses its payload."""
    number = float(value)
    if number - number != 0:
        return f'float("{number}")'
    short = f"{number:g}"
    return short if float(short) == number and short != "-0" else repr(number)


def _values(x: Tensor) -> str:
    if x.numel() == 0:
        return "no elements"
    if x.numel() <= 32:
        return "values " + " ".join(f"{value:g}" for value in x.flatten().tolist())
    return f"{int((x != 0).sum())} of {x.numel()} elements not zero"


def _options(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = {} if subject.hadamard is None else {"hadamard": subject.hadamard}
    for name in ("global_scale", "scale", "zero_point"):
        value = getattr(subject, name)
        if value is not None:
            found[name] = value.item()
    return found


def identity(subject: Subject) -> str:
    """What the failures of a quantizer are kept under from one run to the next."""
    module = getattr(subject.provider, "__module__", "")
    return f"{module}.{subject.name} {subject.format!r} {_options(subject)}"


def _name_of(provider: Any) -> str:
    name = str(getattr(provider, "__name__", ""))
    return name if name.isidentifier() else "provider"


def _import_of(provider: Any) -> str:
    """The import of a function of a module; a comment that says where it is if it cannot be imported by name."""
    name, module = getattr(provider, "__qualname__", ""), getattr(provider, "__module__", "")
    if (
        name.isidentifier()
        and module != "__main__"
        and getattr(sys.modules.get(module), name, None) is provider
    ):
        return f"from {module} import {name}"
    code = getattr(provider, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(provider)
    return f"# {_name_of(provider)} is {name or type(provider).__name__} of {where}"


def hint(mismatch: Mismatch) -> str:
    """The line that names a cause, "" if none does. That few rows are wrong is a sign only where there are many."""
    lines = (line for line in mismatch.details.splitlines() if re.search(r"\blikely\b", line))
    return next((line for line in lines if "only in rows" not in line), "")


def likeness(mismatch: Mismatch) -> tuple[str, str]:
    """What two sightings of one bug share: the words of the summary, and of the likely cause."""
    return _words(mismatch.summary), _words(hint(mismatch))


def _words(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|[-+.\d]+(e[-+]?\d+)?", "#", text)
