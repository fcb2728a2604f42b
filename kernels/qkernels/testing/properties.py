"""Properties that follow from a format alone, asked of the quantizer's own output: no reference has a part in them.

Each holds for every correct quantizer, whatever its order of operations; what is tempting and false is not here (see
the tests of counter-examples). x is finite, of magnitudes 2^-24 .. 2^14, not rotated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench import Mismatch
from qkernels.codec import decode_e2m1, encode_e2m1, encode_e4m3, floor_log2
from qkernels.format import E2M1, Format
from qkernels.quantize_block import to_blocks
from qkernels.testing.error_bounds import error_bound, has_error_bound, per_element
from qkernels.testing.subject import Refused, Subject

_KEEPS_POWERS = ("floor", "even", "ceil", "rceil")


@dataclass(frozen=True)
class Property:
    holds: Callable[[Subject], bool]
    judge: Callable[[Subject, Tensor], Mismatch | None]


def judge_property(subject: Subject, x: Tensor, aspect: str) -> Mismatch | None:
    """None if the property of that name holds of the quantizer's output for x."""
    return PROPERTIES[aspect].judge(subject, x)


def properties_of(subject: Subject) -> list[str]:
    """Names of the properties that hold for the format and options."""
    if subject.hadamard is not None:
        return []
    return [name for name, each in PROPERTIES.items() if each.holds(subject)]


# What is asked ----------------------------------------------------------------------------------------------


def _odd(subject: Subject, x: Tensor) -> Mismatch | None:
    return _same(x, _values(subject, -x), -_values(subject, x), "-x does not give the negated values of x")


def _monotone(subject: Subject, x: Tensor) -> Mismatch | None:
    span = subject.format.block or x.shape[1]
    ordered = x.unflatten(-1, (-1, span)).sort(-1).values.flatten(-2).contiguous()
    out = _values(subject, ordered).unflatten(-1, (-1, span))
    fall = out.diff() < 0
    fall = torch.cat([torch.zeros_like(fall[..., :1]), fall], dim=-1).flatten(-2)
    return _bad(x, fall, "values fall where x rises within a block", out.flatten(-2))


def _power_of_two(subject: Subject, x: Tensor) -> Mismatch | None:
    plain = subject.run(x)
    for power in (-5, 4):
        scaled = x * 2.0**power
        if not torch.equal(scaled.double(), x.double() * 2.0**power):
            raise Refused(f"{x.dtype} cannot hold x * 2^{power}")
        made = subject.run(scaled)
        wanted = plain.dequantize(torch.float64) * 2.0**power
        words = f"x * 2^{power} does not give"
        wrong = _same(x, made.dequantize(torch.float64), wanted, f"{words} the values times 2^{power}")
        wrong = wrong or _bad(x, made.codes() != plain.codes(), f"{words} the codes of x", made.codes())
        if wrong is not None:
            return wrong
    return None


def _blocks_move(subject: Subject, x: Tensor) -> Mismatch | None:
    span = subject.format.block or 1
    moved = x.roll(span, -1)
    wanted = _values(subject, x).roll(span, -1)
    return _same(moved, _values(subject, moved), wanted, "moving blocks does not move the values")


def _elements_move(subject: Subject, x: Tensor) -> Mismatch | None:
    span = subject.format.block or x.shape[1]

    def turned(t: Tensor) -> Tensor:
        ends: Tensor = t.unflatten(-1, (-1, span)).flip(-1)
        return ends.flatten(-2)

    moved = turned(x)
    wanted = turned(_values(subject, x))
    return _same(moved, _values(subject, moved), wanted, "reversing blocks does not reverse the values")


def _idempotent_bytes(subject: Subject, x: Tensor) -> Mismatch | None:
    once = subject.run(x)
    again = subject.run(once.dequantize(x.dtype))
    scales = per_element(subject.format, again.scale != once.scale, len(x))
    return _bad(x, scales, "quantizing the values again changes scales", again.dequantize()) or _bad(
        x, again.codes() != once.codes(), "quantizing the values again changes codes", again.codes()
    )


def _idempotent_values(subject: Subject, x: Tensor) -> Mismatch | None:
    once = _values(subject, x)
    return _same(x, _values(subject, once.to(x.dtype)), once, "quantizing the values again changes them")


def _idempotent_normal_blocks(subject: Subject, x: Tensor) -> Mismatch | None:
    once = subject.run(x)
    wide = torch.float32 if x.dtype == torch.float16 else x.dtype  # fp16 rounds small values coarsely
    again = subject.with_global_scale(once.global_scale).run(once.dequantize(wide))
    normal = per_element(subject.format, once.scale > _least_byte(subject.format), len(x))
    changed = per_element(subject.format, again.scale != once.scale, len(x)) | (again.codes() != once.codes())
    return _bad(x, changed & normal, "quantizing a block of normal scale again changes it", again.codes())


def _contains_six(subject: Subject, x: Tensor) -> Mismatch | None:
    q = subject.run(x)
    largest = to_blocks((q.codes() & 7).to(torch.float64), subject.format).amax(-1)
    bad = (largest != 7) & (q.scale > _least_byte(subject.format))
    return _bad(x, per_element(subject.format, bad, len(x)), "a block of normal scale holds no 6", q.codes())


def _representable(subject: Subject, x: Tensor) -> Mismatch | None:
    """x rounded to E2M1 at one scale for the tensor: representable, whatever the largest code of a block is."""
    unit = 2.0 ** float(floor_log2(x.abs().max()).clamp(min=-14) - 2)
    grid = (decode_e2m1(encode_e2m1(x.double() / unit)).double() * unit).to(x.dtype)
    return _same(grid, _values(subject, grid), grid.double(), "representable values are not kept")


def _constant_rows(subject: Subject, x: Tensor) -> Mismatch | None:
    """Each value to one unit in the last place of fp32: 15*fl(x/15) need not be x."""
    flat = x[:, :1].expand(-1, x.shape[1]).contiguous()
    out, wide = _values(subject, flat), flat.to(torch.float64)
    return _bad(flat, ~((out - wide).abs() <= wide.abs() * 2.0**-23), "a constant row is not kept", out)


def _error(subject: Subject, x: Tensor) -> Mismatch | None:
    q = subject.run(x)
    out, wide = q.dequantize(torch.float64), x.to(torch.float64)
    bound = error_bound(subject, wide, q.scale_values(), q.global_scale)
    return _bad(x, ~((out - wide).abs() <= bound), "the error exceeds the bound of the format", out)


# Of which formats -------------------------------------------------------------------------------------------


def _is_nvfp4(subject: Subject) -> bool:
    return subject.format.scale == "e4m3" and not subject.format.select


def _dynamic(subject: Subject) -> bool:
    return subject.global_scale is None and subject.scale is None


def _keeps_powers(subject: Subject) -> bool:
    fmt = subject.format
    return fmt.rule in _KEEPS_POWERS or (fmt.levels == 2 and _dynamic(subject))


def _is_odd(subject: Subject) -> bool:
    element = subject.format.element
    return (
        subject.format.symmetric
        and (not element.integer or element.max == element.greatest)
        and _dynamic(subject)
    )


PROPERTIES: dict[str, Property] = {
    "error within the bound of the format": Property(lambda s: has_error_bound(s.format), _error),
    "odd": Property(_is_odd, _odd),
    "monotone within a block": Property(lambda s: True, _monotone),
    "a power of two passes through": Property(_keeps_powers, _power_of_two),
    "blocks may be moved": Property(lambda s: True, _blocks_move),
    "elements of a block may be moved": Property(
        lambda s: s.format.rule != "quest" and not s.format.select, _elements_move
    ),
    "idempotent in bytes": Property(
        lambda s: s.format.rule in ("floor", "even") and s.format.element is E2M1, _idempotent_bytes
    ),
    "idempotent in values": Property(lambda s: s.format.rule in _KEEPS_POWERS, _idempotent_values),
    "blocks of normal scale are idempotent": Property(
        lambda s: _is_nvfp4(s) and s.format.global_granularity == "tensor", _idempotent_normal_blocks
    ),
    "blocks of normal scale hold a six": Property(_is_nvfp4, _contains_six),
    "representable blocks are kept": Property(
        lambda s: s.format.rule in ("floor", "even", "rceil") and s.format.element is E2M1, _representable
    ),
    "constant rows are kept": Property(lambda s: not s.format.symmetric and s.scale is None, _constant_rows),
}


# Words ------------------------------------------------------------------------------------------------------


def _values(subject: Subject, x: Tensor) -> Tensor:
    return subject.run(x).dequantize(torch.float64)


def _least_byte(fmt: Format) -> int:
    """The E4M3 byte above which a scale is normal and its own block's."""
    return max(7, int(encode_e4m3(torch.tensor(fmt.min_scale))) if fmt.min_scale else 0)


def _same(x: Tensor, found: Tensor, wanted: Tensor, words: str) -> Mismatch | None:
    """Equal values; NaN equals nothing."""
    return _bad(x, ~(found == wanted), words, found, wanted)


def _bad(x: Tensor, bad: Tensor, words: str, found: Tensor, wanted: Tensor | None = None) -> Mismatch | None:
    if not bool(bad.any()):
        return None
    at = tuple(bad.nonzero()[0].tolist())
    line = f"  at {at}: x = {float(x[at])!r}, found {float(found[at])!r}"
    line += "" if wanted is None else f", expected {float(wanted[at])!r}"
    return Mismatch(words, int(bad.sum()), bad.numel(), line)
