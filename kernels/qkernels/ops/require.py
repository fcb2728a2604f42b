"""Does a provider compute what it is asked for? If not: qbench.Unsupported with the reason, from one place for all.

A provider names the formats it was written for, whole. One that looks at a part of a format only, its element or the
type of its scales, would quantize or multiply the next format of that part as the one its author had in mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from qbench import Unsupported
from qkernels.format import Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.tensor import QTensor

OPTIONS = ("hadamard", "global_scale", "scale", "zero_point")
"""What QuantizeOptions may hold beside a format and a rounding, None where it is not asked for. A provider that writes
scales in tiles names "scale_layout" too."""

EXACT_PRODUCT = "qkernels.matmul(backend='torch')"
"""The product of operands of any format."""


def require(
    options: QuantizeOptions,
    who: str,
    takes: Mapping[Format, tuple[str, ...]],
    *,
    instead: str = "torch-exact",
) -> None:
    """Unsupported unless `who` quantizes so. takes: the formats, and for each those of OPTIONS that it looks at.

    All of them round to nearest. INT8 is static: without a scale it is no format but INT8_TOKEN.
    """
    fmt = options.format
    if fmt not in takes:
        raise Unsupported(f"{who} quantizes to {names(takes)}, not to {fmt.name}", instead)
    if options.rounding != "nearest":
        raise Unsupported(f"{who} rounds to nearest, not {options.rounding}", instead)
    given = [name for name in OPTIONS if getattr(options, name) is not None]
    if ignored := [name for name in given if name not in takes[fmt]]:
        raise Unsupported(f"{who} takes no {' and no '.join(ignored)} for {fmt.name}", instead)
    if options.scale_layout != "linear" and "scale_layout" not in takes[fmt]:
        raise Unsupported(
            f"{who} writes {fmt.name} scales in linear layout, not {options.scale_layout}", instead
        )
    if fmt.element.integer and fmt.granularity == "tensor" and options.scale is None:
        raise Unsupported(f"{fmt.name} is static, and no scale is given", "a scale, or int8_token")


def require_operands(
    who: str, takes: Iterable[Format], *operands: Tensor | QTensor, instead: str = EXACT_PRODUCT
) -> None:
    """Unsupported unless each operand is quantized and its bytes mean what they do in one of these formats."""
    takes = tuple(takes)
    for operand in operands:
        if not isinstance(operand, QTensor):
            raise Unsupported(f"{who} multiplies quantized operands, not {operand.dtype}", instead)
        if not decodes_as(operand.format, *takes):
            raise Unsupported(f"{who} multiplies {names(takes)}, not {operand.format.name}", instead)
        if operand.scale_layout != "linear":
            raise Unsupported(f"{who} reads scales in linear layout", "QTensor.linear()")


def decodes_as(fmt: Format, *takes: Format) -> bool:
    """Do stored bytes of fmt mean what they would in one of these formats?

    How scales were chosen does not matter to one who decodes: neither MX rule, least scale nor four-over-six, whose
    global scale is stored like any other and divided out as it is.
    """
    return any(_meaning(fmt) == _meaning(each) for each in takes)


def _meaning(fmt: Format) -> tuple[object, ...]:
    scales = (fmt.granularity, fmt.block, fmt.block_rows, fmt.scale, fmt.symmetric)
    return (fmt.element, fmt.gain, *scales, fmt.levels, fmt.global_scale, fmt.global_granularity)


def names(formats: Iterable[Format]) -> str:
    """Their names, joined by commas."""
    return ", ".join(each.name for each in formats)
