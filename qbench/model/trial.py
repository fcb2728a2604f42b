"""One whole-model case: the model is built and changed once, decoded and checked, then timed.

A round is one prefill and one block of `new` steps; each is timed apart on the host's clock with one synchronization,
as somebody waiting for the text would. Compiling is timed apart. Rounds that decode other tokens than the checked one
are wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qbench.case import Case, ProviderInfo, Unsupported, provider_info
from qbench.check import WrongResult
from qbench.measure import Bench, Measured, times_of
from qbench.model.decode import Decoder
from qbench.model.graph import Mode
from qbench.model.traffic import Matrices, Traffic, least_ns, matrices
from qbench.model.verify import Decoded, decoded, found, text_of
from qbench.stats import quantile
from qbench.timing import Timed, undisturbed, until_converged

Words = Mapping[str, str]
Part = Literal["prefill", "decode"]
_ENERGY_S = 1.5  # decoded for at least this long: the counter moves in steps of up to 0.1 s


@dataclass(frozen=True)
class Variant:
    """A way to run a model, under the name of its baselines.

    apply(model) changes it in place and returns words about it (mode, backend) for `Result.labels`; it may raise
    Unsupported, as may available(device), which is asked before a model is built. accumulator: as of any provider.
    """

    name: str
    apply: Callable[[nn.Module], Words | None]
    available: Callable[[torch.device], None] | None = None
    accumulator: str = "fp32"

    def __call__(self, model: nn.Module) -> Any:
        return self.apply(model)

    @property
    def __qbench_provider__(self) -> ProviderInfo:
        return ProviderInfo(self.name, self.accumulator)


@dataclass
class Loaded:
    """A changed model and the decoder made of it last. One is alive at a time: graphs hold memory."""

    model: nn.Module
    labels: dict[str, str]
    counted: Matrices
    _decoder: tuple[object, Decoder] | None = None

    @classmethod
    def of(cls, case: Case, device: torch.device) -> Loaded | Unsupported:
        """Build and change the model of a case; what cannot run is remembered instead of built again."""
        available = getattr(case.provider, "available", None)
        try:
            if available is not None:
                available(device)
            (model,) = case.op.inputs(case.workload, device)
            counted = matrices(model)
            words: Any = case.provider(model)
        except Unsupported as error:
            return error
        return cls(model.eval(), dict(words or {}), counted)

    def close(self) -> None:
        """Let the compiled step go, too: its CUDA graph holds memory until torch.compile forgets it."""
        if self._decoder is not None and self._decoder[1].mode != "eager":
            torch.compiler.reset()
        self._decoder = None

    def decoder(self, case: Case, mode: Mode | None) -> Decoder:
        sizes = {name: case.workload.size(name) for name in ("batch", "prompt", "new")}
        seed = case.workload.seed
        if self._decoder is None or self._decoder[0] != (sizes, seed, mode):
            self._decoder = None  # its graph goes before the next one's memory is asked for
            made = Decoder(self.model, **sizes, seed=seed, mode=mode)
            self._decoder = ((sizes, seed, mode), made)
        return self._decoder[1]


@dataclass
class ModelTrial:
    """A case of `model_prefill` or `model_decode`. `delay` is queued in each timed part: the gate's test of itself."""

    case: Case
    bench: Bench
    part: Part
    loaded: Loaded
    decoder: Decoder
    delay: Callable[[], object] | None = None
    run: Decoded | None = None
    peak: int = 0
    host_ns: list[float] = field(default_factory=list)  # until everything was queued

    @classmethod
    def of(cls, case: Case, bench: Bench, part: Part, mode: Mode | None) -> ModelTrial:
        key = (case.op.inputs, case.workload["model"], case.provider)
        loaded = bench.keep(key, lambda: Loaded.of(case, bench.device))
        if isinstance(loaded, Unsupported):
            raise Unsupported(loaded.reason, loaded.instead)
        _forget_peak(bench.device)
        return cls(case, bench, part, loaded, loaded.decoder(case, mode))

    def check(self) -> None:
        """Prefill and decode, and compare with a forward of the whole text. Raises WrongResult."""
        decoder, op = self.decoder, self.case.op
        self.run = decoded(decoder, decode=self.part == "decode")
        self.peak = _peak(self.bench.device)
        ids, places = text_of(decoder, self.run)
        accumulator = provider_info(self.case.provider).accumulator
        mismatch = op.tolerance(
            found(decoder, self.run), (decoder.model, ids, places), op.reference, accumulator
        )
        if mismatch is not None:
            raise WrongResult(f"{self.case.id}: {mismatch}")

    def once(self) -> None:
        """The timed part alone, if the prompt has been read."""
        if self.part == "prefill":
            self.decoder.reset()
            self.decoder.prefill()
        else:
            if not self.decoder.rewind():
                self._prepare()
            self.decoder.decode()

    def measure(self) -> Measured:
        """Rounds until the median is sure enough, then the energy of decoding without a pause."""
        timed = self._timed()
        decoder, ceilings = self.decoder, self.bench.ceilings()
        traffic = Traffic.of(decoder.model, decoder.cache, decoder.batch, self.loaded.counted)
        if self.part == "prefill":
            cost = traffic.prefill(decoder.batch, decoder.prompt)
        else:
            cost = traffic.decode(decoder.batch, decoder.prompt, decoder.new)
        least = least_ns(cost, ceilings, provider_info(self.case.provider).accumulator)
        ns = timed.samples.median_ns
        figures = {
            "tokens_per_s": cost.elements / (ns * 1e-9),
            "wall_s": ns * 1e-9,
            "tokens": float(cost.elements),
            "roofline_percent": 100 * least / ns,
            "roofline_tokens_per_s": cost.elements / (least * 1e-9),
        }
        if self.part == "prefill":
            figures["ttft_ms"] = ns * 1e-6
        else:
            figures["ms_per_token"] = ns * 1e-6 / decoder.new
            if self.bench.device.type == "cuda":  # near ms_per_token: the host is what is measured
                figures["host_ms_per_token"] = quantile(self.host_ns, 0.5) * 1e-6 / decoder.new
            if decoder.mode != "eager":
                figures["compile_s"] = decoder.compile_s
        if self.bench.device.type == "cuda":
            figures["peak_gib"] = max(self.peak, _peak(self.bench.device)) / 2**30
        if self.part == "decode" and (joules := self._joules()) is not None:
            figures["joules_per_token"] = joules
        return Measured(times_of(timed), timed.samples.ns, cost, figures, self._labels())

    def _labels(self) -> dict[str, str]:
        mode, why = self.decoder.mode, self.decoder.uncaptured
        words = {"graph": "one compiled graph, replayed", "traced": "one traced graph, run op by op"}
        method = words.get(mode, "eager")
        if self.part == "prefill":
            captured = f"eager: {why}" if why else "one captured graph, replayed"
            method = captured if mode == "graph" else "eager"
        return {
            "model": str(self.case.workload["model"]),
            "recipe": self.case.provider_name,
            **self.loaded.labels,
            "method": method,
        }

    def _prepare(self) -> None:
        self.decoder.reset()
        if self.part == "decode":
            self.decoder.prefill()

    def _round(self) -> float:
        """Nanoseconds of the timed part; raises WrongResult where it decoded other tokens than the checked run."""
        decoder, run = self.decoder, self.run
        assert run is not None, "measured before it was checked"
        self._prepare()
        time.sleep(self.bench.policy.rest_ms * 1e-3)
        decoder.synchronize()
        start = time.perf_counter_ns()
        if self.part == "prefill":
            decoder.prefill()
        else:
            decoder.decode()
        if self.delay is not None:
            self.delay()
        self.host_ns.append(time.perf_counter_ns() - start)
        decoder.synchronize()
        taken = time.perf_counter_ns() - start
        made = 1 if self.part == "prefill" else decoder.new + 1
        if words := _other_text(decoder.tokens[:, :made] != run.tokens[:, :made]):
            nan = "; logits are NaN" if bool(decoder.logits.isnan().any()) else ""
            raise WrongResult(f"{self.case.id}: {words}{nan}: the same text must be decoded each time")
        return float(taken)

    def _timed(self) -> Timed:
        policy, monitor = self.bench.policy, self.bench.timer.monitor if self.bench.timer else None
        _forget_peak(self.bench.device)
        once = min(self._round() for _ in range(max(1, policy.warmup)))
        if monitor:
            monitor.recover(policy.recover_s)
        before = monitor.clock_mhz() if monitor else 0
        threads = 1 if monitor else torch.get_num_threads()  # of the host, whose clock it is on a GPU, too
        with undisturbed(threads) as disturbed:
            samples = until_converged(self._round, once, policy)
        after = monitor.clock_mhz() if monitor else 0
        throttle = (*(monitor.throttle_reasons() if monitor else ()), *disturbed)
        if self.part == "decode" and self.decoder.mode != "eager":
            self.decoder.compilations.assert_one_graph("after timing")
        return Timed(samples, "wall", 1, 1, monitor is not None, [], before, after, throttle)

    def _joules(self) -> float | None:
        """Joules for each decoded token, of blocks one after the other: all of the card, its memory and idling too."""
        decoder, timer = self.decoder, self.bench.timer
        if timer is None or timer.monitor.energy_j() is None or not decoder.rewind():
            return None
        blocks, start, before = 0, time.monotonic(), timer.monitor.energy_j()
        while time.monotonic() - start < _ENERGY_S:
            decoder.rewind()
            decoder.decode()
            decoder.synchronize()
            blocks += 1
        after = timer.monitor.energy_j()
        assert before is not None and after is not None
        return (after - before) / (blocks * decoder.batch * decoder.new)


def _other_text(differs: Tensor) -> str:
    """Which tokens of [texts, tokens] are others than the checked run's, or "": a bug that seldom shows is found by
    how many texts it reaches at once, and where it begins."""
    texts = differs.any(1).nonzero()[:, 0].tolist()
    if not texts:
        return ""
    some = ", ".join(map(str, texts[:6])) + (", …" if len(texts) > 6 else "")
    return (
        f"{int(differs.sum())} of {differs.numel()} tokens differ from those of the checked run, in {len(texts)} of "
        f"{len(differs)} texts ({some}), the first at token {int(differs.any(0).nonzero()[0])}"
    )


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
