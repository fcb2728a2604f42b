"""Two compilations of one kernel, the difference in words with its cause where it can be told. Pure functions.

Hard (WORSE): a product left the tensor cores or its faster form; narrower or more global accesses; more bytes; spills;
a quarter more instructions; a detour through shared memory. Soft (CHANGED): registers by more than 8, instructions by
more than 5%, shared memory by more than 10%. The compiler repeats itself exactly for one version and target, so
unchanged code differs in nothing; the limits say what is worth a reader's time, not what could be chance.

A tile of another size changes every count of one program. Counts are therefore compared as a whole launch issues them:
static count × warps × programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from qbench.aot.expect import Finding, Weight, count, spill_words
from qbench.aot.metrics import Metrics
from qbench.aot.opcodes import GROUPS, PRODUCT_RANK, family_counts, operand_bits

MORE = 1.02  # accesses and bytes: as good as exact, but for a tile whose edge is cut differently
MANY = 1.25  # instructions; hard from here on
SOME = 1.05  # instructions; soft
REGISTERS = 8
SPILL_SLACK = 16  # bytes a thread
MANY_ACCESSES = 8  # to shared memory, more than before


def differences(now: Metrics, base: Metrics) -> list[Finding]:
    """All findings, the ones that explain others first."""
    share = now.warps * now.programs / (base.warps * base.programs)
    return [
        *_products(now, base),
        *_arguments(now, base),
        *_accesses(now, base, share),
        *_prefetching(now, base),
        *_traffic(now, base),
        *_spills(now, base),
        *_exchange(now, base, share),
        *_size(now, base, share),
        *_loop(now, base, share),
        *_resources(now, base),
        *_launch(now, base),
    ]


def _products(now: Metrics, base: Metrics) -> Iterator[Finding]:
    lost, new = [[kind for kind in a.mma if kind not in b.mma] for a, b in ((base, now), (now, base))]
    if not lost and not new:
        return
    if not lost:
        slower = [kind for kind in new if _rank(kind) > max(map(_rank, base.mma), default=_NO_PRODUCT)]
        weight = Weight.WORSE if slower else Weight.CHANGED
        yield Finding(weight, "mma", f"new kind of product: {', '.join(sorted(new))}")
        return
    was, remains = (
        ", ".join(sorted(lost)),
        ", ".join(sorted(new or now.mma)) or "no tensor-core product at all",
    )
    scaled = [any("block_scale" in kind for kind in m.mma) for m in (base, now)]
    if scaled == [True, False]:
        yield Finding(Weight.WORSE, "mma", f"left block-scaled MMA: {was} became {remains}")
    else:
        after, before = (max(map(_rank, m.mma), default=_NO_PRODUCT) for m in (now, base))
        same_form_of_narrower = after == before and operand_bits(now.mma) < operand_bits(base.mma)
        better = after < before or same_form_of_narrower
        yield Finding(Weight.BETTER if better else Weight.WORSE, "mma", f"{was} became {remains}")


_NO_PRODUCT = 99


def _rank(kind: str) -> int:
    """Lower is a faster way to issue a product."""
    return next(
        (place for place, prefix in enumerate(PRODUCT_RANK) if kind.startswith(prefix)), len(PRODUCT_RANK)
    )


def _arguments(now: Metrics, base: Metrics) -> Iterator[Finding]:
    lost = _lost(now, base)
    if (
        lost
        and not _narrowed(now.global_loads, base.global_loads)
        and not _narrowed(now.global_stores, base.global_stores)
    ):
        yield Finding(Weight.CHANGED, "arguments", f"{_lost_arguments(lost)}, to no visible effect")


def _lost(now: Metrics, base: Metrics) -> list[str]:
    """Arguments that are no longer divisible. A renamed one is not lost: another has come in its place."""
    gone = [name for name in base.divisible if name not in now.divisible]
    return gone if len(now.divisible) < len(base.divisible) else []


def _lost_arguments(names: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names)
    return f"argument{'s' * (len(names) > 1)} {listed} lost divisibility by 16"


def _accesses(now: Metrics, base: Metrics, share: float) -> Iterator[Finding]:
    """Global loads and stores: width first, then number."""
    lost = _lost(now, base)
    for word, after, before in (
        ("loads", now.global_loads, base.global_loads),
        ("stores", now.global_stores, base.global_stores),
    ):
        if _narrowed(after, before, share):
            cause = f": {_lost_arguments(lost)}" if lost else ""
            yield Finding(Weight.WORSE, word, f"{_became(before, after, word, 'narrower')}{cause}")
        elif _narrowed(before, after, 1 / share):
            yield Finding(Weight.BETTER, word, _became(before, after, word, "wider"))
        elif (many := _bits(after) * share) > MORE * _bits(before) and _bits(before):
            same_bytes = _read(now, word) is not None and _read(now, word) == _read(base, word)
            weight = Weight.CHANGED if same_bytes and many < MANY * _bits(before) else Weight.WORSE
            yield Finding(
                weight, word, f"more global {word}: {_listed(before)} became {_listed(after)}{_spread(share)}"
            )
        elif _bits(after) * share * MORE < _bits(before):
            yield Finding(
                Weight.BETTER, word, f"fewer global {word}: {_listed(before)} became {_listed(after)}"
            )


def _prefetching(now: Metrics, base: Metrics) -> Iterator[Finding]:
    """Loads that no longer run ahead of their use, which makes a kernel shorter and slower."""
    before, after = (sum(count(m, name) for name in ("LDGSTS", "UTMALDG", "UBLKCP")) for m in (base, now))
    if before and not after:
        text = f"asynchronous copies to shared memory {before} -> 0: loads are no longer pipelined"
        yield Finding(Weight.WORSE, "pipeline", text)


def _narrowed(after: Mapping[int, int], before: Mapping[int, int], share: float = 1.0) -> bool:
    """The width that carries most is narrower, or a tenth of what was carried at it or above goes in smaller pieces."""
    if not before or not after:
        return False
    usual = _usual(before)
    wide, was = (
        sum(width * n for width, n in widths.items() if width >= usual) for widths in (after, before)
    )
    fewer = _bits(after) * share < 0.9 * _bits(before)
    return _usual(after) < usual or (wide * share < 0.9 * was and not fewer)


def _usual(widths: Mapping[int, int]) -> int:
    """The width that most bits are carried in."""
    return max(widths, key=lambda width: (width * widths[width], width))


def _became(before: Mapping[int, int], after: Mapping[int, int], word: str, how: str) -> str:
    if _usual(before) != _usual(after):
        return (
            f"{_usual(before)}-bit {word} became {_usual(after)}-bit ({_listed(before)} -> {_listed(after)})"
        )
    return f"{word} became {how} ({_listed(before)} -> {_listed(after)})"


def _listed(widths: Mapping[int, int]) -> str:
    return ", ".join(f"{widths[width]} × {width} bits" for width in sorted(widths, reverse=True)) or "none"


def _bits(widths: Mapping[int, int]) -> int:
    return sum(width * n for width, n in widths.items())


def _spread(share: float) -> str:
    return "" if share == 1 else f", over {share:.3g}× as many warps"


def _read(metrics: Metrics, word: str) -> int | None:
    each = metrics.bytes_read if word == "loads" else metrics.bytes_written
    return None if each is None else each * metrics.programs


def _traffic(now: Metrics, base: Metrics) -> Iterator[Finding]:
    """Bytes and flops of the launch, from Triton's IR."""
    for word, verb, unit in (
        ("bytes_read", "reads", "B"),
        ("bytes_written", "writes", "B"),
        ("flops", "does", "flop"),
    ):
        after, before = getattr(now, word), getattr(base, word)
        if after is None or before is None:
            if after != before:
                state = "is no longer known" if after is None else "is known now"
                yield Finding(Weight.CHANGED, word, f"{word} {state}: a loop's number of iterations")
            continue
        total, was = after * now.programs, before * base.programs
        if total > MORE * was:
            again = " (each byte twice: a double load)" if word == "bytes_read" and total == 2 * was else ""
            ratio = f"{total / was:.2f}×" if was else "from none"
            text = f"the launch {verb} {total:,} {unit}, was {was:,} ({ratio}){again}"
            yield Finding(Weight.WORSE, word, text)
        elif total * MORE < was:
            # Less traffic is either better or work that is no longer done; the values are for other tests to judge.
            yield Finding(Weight.BETTER, word, f"the launch {verb} {total:,} {unit}, was {was:,}")


def _spills(now: Metrics, base: Metrics) -> Iterator[Finding]:
    if now.spill_bytes > base.spill_bytes + SPILL_SLACK or (now.spill_bytes and not base.spill_bytes):
        yield Finding(Weight.WORSE, "spill", f"spills {spill_words(now)}, was {base.spill_bytes}")
    elif now.spill_bytes + SPILL_SLACK < base.spill_bytes or (base.spill_bytes and not now.spill_bytes):
        yield Finding(
            Weight.BETTER, "spill", f"spills {now.spill_bytes} bytes a thread, was {base.spill_bytes}"
        )
    if now.stack_bytes > base.stack_bytes + SPILL_SLACK and now.spill_bytes <= base.spill_bytes:
        yield Finding(
            Weight.CHANGED, "stack", f"stack {base.stack_bytes} -> {now.stack_bytes} bytes a thread"
        )


def _exchange(now: Metrics, base: Metrics, share: float) -> Iterator[Finding]:
    """What threads hand to each other through shared memory: a layout conversion, a reduction, a staged operand."""
    if not (now.shared_loads or now.shared_stores or base.shared_loads or base.shared_stores):
        return
    counts, bits = ([f(m.shared_loads) + f(m.shared_stores) for m in (now, base)] for f in (_number, _bits))
    extra = counts[0] * share - counts[1]
    ratios = [after * share / before if before else math.inf for after, before in (counts, bits)]
    if ratios[1] > MORE or (ratios[0] > MORE and extra >= 2):
        hard = max(ratios) > MANY and (now.barriers > base.barriers or extra >= MANY_ACCESSES)
        alike = share == 1 and now.mma.keys() == base.mma.keys()
        cause = ": a layout conversion was added" if hard and alike else ""
        yield Finding(
            Weight.WORSE if hard else Weight.CHANGED, "shared accesses", _exchange_words(now, base) + cause
        )
    elif max(ratios) * MANY < 1:
        yield Finding(Weight.BETTER, "shared accesses", _exchange_words(now, base))


def _number(widths: Mapping[int, int]) -> int:
    return sum(widths.values())


def _exchange_words(now: Metrics, base: Metrics) -> str:
    pairs = [(sum(b.values()), sum(a.values())) for b, a in (
        (base.shared_stores, now.shared_stores), (base.shared_loads, now.shared_loads))]  # fmt: skip
    stores, loads = (f"{b} -> {a}" for b, a in pairs)
    return f"shared-memory stores {stores}, loads {loads}, barriers {base.barriers} -> {now.barriers}"


def _size(now: Metrics, base: Metrics, share: float) -> Iterator[Finding]:
    after, before = now.instructions * share, base.instructions
    text = (
        f"instructions {base.instructions:,} -> {now.instructions:,}{_spread(share)} ({after / before:.2f}×)"
    )
    if after * SOME < before:
        yield Finding(Weight.BETTER, "instructions", text)
    elif after > SOME * before:
        risen = _risen(now, base, share)
        grown = _grown(risen, share)
        cause = f"; most of them {', '.join(f'{name} {b} -> {a}' for name, b, a in grown)}" if grown else ""
        detour = _detour(risen, share)
        weight = Weight.WORSE if after > MANY * before else Weight.CHANGED
        yield Finding(weight, "instructions", f"{text}{cause}{detour}")
    elif grown := [row for row in _risen(now, base, share) if row[0] in _SLOW and _doubled(row, share)]:
        # As many instructions, but slower ones in place of others.
        words = ", ".join(f"{name} {b} -> {a}" for name, b, a in grown)
        detour = _detour(grown, share)
        text = f"about as many instructions, of another kind: {words}{detour}"
        yield Finding(Weight.WORSE if detour else Weight.CHANGED, "instructions", text)


def _loop(now: Metrics, base: Metrics, share: float) -> Iterator[Finding]:
    """Work that moved into the loop, which the number of instructions does not show."""
    if not base.looped or not base.iterations or base.iterations < 4:
        return
    after, before = now.looped * (now.iterations or 1) * share, base.looped * base.iterations
    alone = now.instructions * share <= SOME * base.instructions  # otherwise it has been said
    if alone and after > SOME * before:
        weight = Weight.WORSE if after > MANY * before else Weight.CHANGED
        rounds = f"{base.iterations} -> {now.iterations or 'unknown'}"
        text = f"instructions in the loop {base.looped} -> {now.looped}, iterations {rounds} ({after / before:.2f}×)"
        yield Finding(weight, "loop", text)


def _doubled(row: tuple[str, int, int], share: float) -> bool:
    _name, before, after = row
    return after * share >= 2 * before and after * share - before >= 16


_SLOW = ("conversions", "64-bit arithmetic", "special functions", "calls", "shuffles", "fp32 arithmetic")


def _risen(now: Metrics, base: Metrics, share: float) -> list[tuple[str, int, int]]:
    """Groups of instructions of which there are more, most first, with counts before and after."""
    after, before = family_counts(now.histogram), family_counts(base.histogram)
    rows = [(name, before.get(name, 0), after.get(name, 0)) for name in GROUPS]
    return sorted(
        (row for row in rows if row[2] * share - row[1] >= 1), key=lambda row: row[1] - row[2] * share
    )


def _grown(risen: list[tuple[str, int, int]], share: float) -> list[tuple[str, int, int]]:
    """Up to three that make most of it."""
    total = sum(after * share - before for _name, before, after in risen)
    return [row for row in risen[:3] if row[2] * share - row[1] >= 0.1 * total]


def _detour(risen: list[tuple[str, int, int]], share: float) -> str:
    rose = {row[0] for row in risen if _doubled(row, share)}
    if "64-bit arithmetic" in rose:
        return ": fp64 arithmetic crept in"
    if {"conversions", "fp32 arithmetic"} <= rose:
        return ": values take a detour through fp32"
    if "calls" in rose or "special functions" in rose:
        return ": a slow division, root or other function"
    return ""


def _resources(now: Metrics, base: Metrics) -> Iterator[Finding]:
    if abs(now.registers - base.registers) > REGISTERS:
        weight = Weight.CHANGED if now.registers > base.registers else Weight.BETTER
        capped = now.registers < base.registers and now.spill_bytes > base.spill_bytes
        if not capped:
            blocks = [_REGISTERS // max(1, _granted(m.registers) * m.warps * 32) for m in (base, now)]
            text = f"registers {base.registers} -> {now.registers}: room for {blocks[0]} -> {blocks[1]} blocks on an SM"
            yield Finding(weight, "registers", text)
    if abs(now.shared_bytes - base.shared_bytes) > max(1024, 0.1 * base.shared_bytes):
        weight = Weight.CHANGED if now.shared_bytes > base.shared_bytes else Weight.BETTER
        yield Finding(
            weight, "shared", f"shared memory {base.shared_bytes:,} -> {now.shared_bytes:,} B a block"
        )
    if now.tensor_memory_columns != base.tensor_memory_columns:
        was, is_ = base.tensor_memory_columns, now.tensor_memory_columns
        yield Finding(Weight.CHANGED, "tensor memory", f"tensor memory {was} -> {is_} columns a block")


_REGISTERS = 65536


def _granted(registers: int) -> int:
    """Registers are given out eight at a time."""
    return -(-registers // 8) * 8


def _launch(now: Metrics, base: Metrics) -> Iterator[Finding]:
    if (now.programs, now.warps) != (base.programs, base.warps):
        text = f"the launch has {now.programs} programs of {now.warps} warps, was {base.programs} of {base.warps}"
        yield Finding(Weight.CHANGED, "launch", text)
    atomics = [count(m, "ATOM") + count(m, "ATOMG") + count(m, "RED") + count(m, "REDG") for m in (base, now)]
    if atomics[1] > atomics[0]:
        yield Finding(Weight.WORSE, "atomics", f"atomic operations {atomics[0]} -> {atomics[1]}")
