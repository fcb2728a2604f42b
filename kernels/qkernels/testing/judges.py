"""One input, one question: is what the quantizer makes of it right? Each returns None or the mismatch.

Raises Refused where the provider does not take the input. The comparator allows what honest fp32 orders give; where
the arithmetic is exact in every order (`exactness.py`), the bits must be equal besides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch
from qkernels.compare import compare_quantized
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.testing.exactness import exact_mismatch
from qkernels.testing.subject import Failed, Refused, Subject


def judge_output(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """The comparator's word, and bit equality where every order of operations is exact."""
    return _judge(subject, subject.run(x), x)


def judge_shape(subject: Subject, x: Tensor, aspect: str) -> Mismatch | None:
    """As `judge_output`; aspect "refuse": K is no multiple of the block or rotation, so any result is wrong."""
    unit = subject.hadamard or subject.format.block or 1
    if aspect != "refuse" or x.shape[-1] % unit == 0:
        return judge_output(subject, x)
    try:
        subject.run(x)
    except Failed as failure:
        if not failure.refusal:
            return failure.mismatch
        raise Refused(failure.mismatch.summary) from failure
    of = "block" if subject.hadamard is None else "Hadamard size"
    words = f"K = {x.shape[-1]} is no multiple of the {of} {unit}, and a result came back"
    cause = "  likely the last elements are lost, or rows run into each other; refuse it with an error"
    return Mismatch(words, x.numel(), x.numel(), cause)


def judge_layout(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """Right, or an error that says what is wrong with the layout; never quietly wrong."""
    plain = x.dim() == 2 and x.is_contiguous() and x.storage_offset() == 0
    try:
        wrong = judge_output(subject, x)
    except Failed as failure:
        if plain or not failure.clear:
            raise
        raise Refused(failure.mismatch.summary) from failure
    if wrong is None or plain or judge_output(subject, x.reshape(-1, x.shape[-1]).clone()) is not None:
        return wrong
    cause = (
        "the same values in memory of their own are right: likely the strides or the offset of x are ignored"
    )
    return with_cause(wrong, cause)


def judge_nonfinite(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """Judged as finite values are, and codes of what decodes to NaN are those of `quantize`: 0 under a NaN scale."""
    q = subject.run(x)
    wrong = _judge(subject, q, x)
    if wrong is not None:
        return wrong
    expected = quantize(x, subject.format, **subject.named(x))
    undefined = expected.dequantize(torch.float64).isnan()
    if subject.format.element.integer and subject.scale is not None:
        undefined = x.isnan()
    bad = (q.codes() != expected.codes()) & undefined
    if not bool(bad.any()):
        return None
    at = tuple(bad.nonzero()[0].tolist())
    return Mismatch("code of a value that is not finite", int(bad.sum()), bad.numel(),
                    f"  at {at}: x = {float(x[at])!r}, found code {int(q.codes()[at])}, "
                    f"expected {int(expected.codes()[at])}: the policy of qkernels.quantize")  # fmt: skip


def judge_rows(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """Rows (groups of rows that share scales) quantized alone give the bits that they have in the batch."""
    group = max(subject.format.block_rows, subject.rows)
    whole = subject.run(x)
    groups = -(-len(x) // group)
    for index in sorted({0, 1, groups // 2, groups - 1} & set(range(groups))):
        rows = slice(index * group, min(len(x), (index + 1) * group))
        alone = subject.run(x[rows])
        name = f"row {rows.start}" if group == 1 else f"rows {rows.start}..{rows.stop - 1}"
        if wrong := _difference(
            _rows(whole, rows), alone, f"{name} of {len(x)}: alone and in the batch differ in"
        ):
            return wrong
    return None


def judge_repeat(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """Two calls of one thunk and of a second one give the same bits."""
    thunk = subject.thunk(x)
    first = _copy(subject.call(thunk, x))
    for what, again in (
        ("the same thunk", thunk),
        ("the same thunk", thunk),
        ("a second thunk", subject.thunk(x)),
    ):
        if wrong := _difference(first, subject.call(again, x), f"two calls of {what} on one input differ in"):
            return wrong
    return None


def judge_stale(subject: Subject, x: Tensor, aspect: str = "") -> Mismatch | None:
    """Right in poisoned memory, and right again after what the thunk returned before has been overwritten."""
    wrong = _judge(subject, subject.run(x, poisoned=True), x)
    if wrong is not None:
        return with_cause(
            wrong, "likely left unwritten: memory that was overwritten before the call shows through"
        )
    thunk = subject.thunk(x)
    _poison(subject.call(thunk, x), subject, x)
    wrong = _judge(subject, subject.call(thunk, x), x)
    return wrong and with_cause(
        wrong, "likely left unwritten: the last result was overwritten before this call"
    )


def _judge(subject: Subject, q: QTensor, x: Tensor) -> Mismatch | None:
    return compare_quantized(q, x, subject.format, **subject.named(x)) or exact_mismatch(q, x, subject)


def unwritten(subject: Subject, x: Tensor) -> str:
    """The words for a result that shows what its memory held before, "" if it does not: tried once each way."""
    try:
        plain, poisoned = _fields(subject.run(x)), _fields(subject.run(x, poisoned=True))
    except (Refused, Failed):
        return ""
    kept = count = 0
    for name in plain.keys() & poisoned.keys():
        if (
            plain[name].shape == poisoned[name].shape and plain[name].numel() > 1
        ):  # one number is not poisoned
            before, after = _bytes(plain[name]), _bytes(poisoned[name])
            count += int((before != after).sum())
            kept += int(((before != after) & (after == 0xFF)).sum())
    if not kept or kept != count:
        return ""
    return f"likely never written: {kept} bytes of the result are what the memory held before the call"


def with_cause(wrong: Mismatch, cause: str) -> Mismatch:
    details = f"{wrong.details}\n  {cause}"
    return Mismatch(wrong.summary, wrong.count, wrong.total, details.lstrip("\n"))


def _fields(q: QTensor) -> dict[str, Tensor]:
    named = {
        "codes": q.data,
        "scales": q.scale,
        "zero points": q.zero_point,
        "the global scale": q.global_scale,
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _rows(q: QTensor, rows: slice) -> dict[str, Tensor]:
    """The part of each field that belongs to whole groups of rows; what the tensor shares is left whole."""
    height = q.format.block_rows
    groups = slice(rows.start // height, -(-rows.stop // height))
    parts = {}
    for name, tensor in _fields(q).items():
        cut = groups if name in ("scales", "zero points") else rows
        parts[name] = tensor[cut] if tensor.dim() > 1 else tensor
    return parts


def _copy(q: QTensor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in _fields(q).items()}


def _bytes(tensor: Tensor) -> Tensor:
    """[..., bytes], of strides of its own: a result may be expanded."""
    raw: Tensor = tensor.reshape(1) if tensor.dim() == 0 else tensor
    own = torch.empty(raw.shape, dtype=raw.dtype, device=raw.device).copy_(raw)
    return own.view(torch.uint8)


def _difference(wanted: dict[str, Tensor], found: QTensor, words: str) -> Mismatch | None:
    for name, tensor in _fields(found).items():
        other = wanted[name]
        if tensor.shape != other.shape:
            return Mismatch(f"{words} the shape of {name}", tensor.numel(), tensor.numel(),
                            f"  {list(other.shape)} and {list(tensor.shape)}")  # fmt: skip
        left, right = _bytes(other), _bytes(tensor)
        bad = left != right
        if bool(bad.any()):
            at = tuple(bad.nonzero()[0].tolist())
            detail = f"  first at byte {at}: 0x{int(left[at]):02x} and 0x{int(right[at]):02x}"
            return Mismatch(f"{words} {name}", int(bad.sum()), bad.numel(), detail)
    return None


def _poison(q: QTensor, subject: Subject, x: Tensor) -> None:
    """Overwrite the tensors of q that are the provider's own: not its input, its options or single numbers."""
    for name, tensor in _fields(q).items():
        handed_through = name == "the global scale" and subject.global_scale is not None
        own = tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() and not handed_through
        if own and tensor.numel() > 1 and tensor.is_contiguous():
            tensor.view(torch.uint8).fill_(0xA5)
