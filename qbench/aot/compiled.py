"""`qbench.compiled`: the kernels that a function launches, compiled for a GPU that is not here, for one's own tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qbench.aot.build import Built, build
from qbench.aot.driver import recording
from qbench.aot.expect import Expectation, check, count
from qbench.aot.launch import Launch
from qbench.aot.metrics import Metrics
from qbench.aot.target import Target, get_target


class CompileFailed(AssertionError):
    """A kernel does not compile for the target; the message says which, why, and how it was launched."""


class NotAsRequired(AssertionError):
    """A compiled kernel is not made of what was required; the message lists every difference."""


@dataclass(frozen=True)
class Kernel:
    """One launch of a kernel, compiled."""

    launch: Launch
    metrics: Metrics

    @property
    def name(self) -> str:
        """Of the kernel's function; with "#2" for its second launch."""
        return self.launch.id

    @property
    def target(self) -> Target:
        return self.launch.target

    def has(self, name: str) -> bool:
        """Is there an instruction ("HGMMA", "LDG.128") or a kind of product ("wgmma.bf16 A=registers") of that name?

        A name stands for all that begin with it, part by part: "LDG" for "LDG.128", "tcgen05" for "tcgen05.f16".
        """
        return count(self.metrics, name) > 0

    def require(
        self,
        *names: str,
        forbid: Sequence[str] = (),
        spill_bytes: int = 0,
        load_bits: int = 0,
        store_bits: int = 0,
    ) -> None:
        """Raise NotAsRequired, naming every difference, unless the kernel

        has all `names` and none of `forbid` (see `has`), spills at most `spill_bytes` a thread, has a global load of
        at least `load_bits` and a store of at least `store_bits` (128 is the widest everywhere), and fits the
        target's shared and tensor memory.
        """
        every = "*"
        wanted = Expectation(
            required={every: names},
            forbidden={every: tuple(forbid)},
            spill_bytes={every: spill_bytes},
            load_bits={every: load_bits} if load_bits else {},
            store_bits={every: store_bits} if store_bits else {},
        )
        if found := check(self.metrics, wanted, self.target):
            raise NotAsRequired("; ".join(each.text for each in found) + f"\n  {self.launch}")

    def __str__(self) -> str:
        m = self.metrics
        products = ", ".join(f"{number} {kind}" for kind, number in m.mma.items())
        return (
            f"{self.launch}: {m.registers} registers, {m.spill_bytes} B spilled, {m.shared_bytes} B shared, "
            f"{m.instructions} instructions{f', {products}' if products else ''}"
        )


def compiled(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | Target,
    jobs: int = 2,
    cache: bool = True,
) -> tuple[Kernel, ...]:
    """Call `fn(*args, **kwargs)`, which launches Triton kernels, and compile each launch for `target`; no GPU needed.

        def test_my_gemm_uses_the_tensor_cores_of_hopper():
            a = torch.empty(128, 4096, dtype=torch.bfloat16)            # on the CPU; never read
            b = torch.empty(4096, 4096, dtype=torch.bfloat16)
            kernel, = qbench.compiled(my_gemm, (a, b), target="sm_90")  # one for each launch, in order
            assert kernel.has("wgmma.bf16")                             # or an opcode: "HGMMA", "LDG.128"
            assert kernel.metrics.registers <= 168
            kernel.require("wgmma", forbid=("HMMA",), load_bits=128, spill_bytes=0)

    Nothing runs: tensors say that they are on a GPU of that target, launches are recorded with Triton's own
    specialization of their arguments, and results are uninitialised. Tensors given must be on the CPU. Works whether
    or not TRITON_INTERPRET is set. Metrics are kept between runs (qbench.aot.cache) unless `cache` is False.

    target  "sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120"
    jobs    compilations at a time

    Raises CompileFailed if a kernel does not compile, ValueError if `fn` launches none or the target is unknown;
    errors of `fn` itself pass through.
    """
    with recording(get_target(target)) as launches:
        fn(*args, **(kwargs or {}))
    if not launches:
        name = getattr(fn, "__qualname__", repr(fn))
        raise ValueError(
            f"{name} launched no Triton kernel; pass a function that launches one on tensors of the CPU"
        )
    return tuple(_kernel(each) for each in build(launches, jobs=jobs, cache=cache))


def _kernel(built: Built) -> Kernel:
    if built.metrics is None:
        raise CompileFailed(f"{built.launch.id} does not compile for {built.launch.target.name}: {built.error}\n"
                            f"  {built.launch}")  # fmt: skip
    return Kernel(built.launch, built.metrics)
