"""One compiled graph of a whole decoding step, and the proof that it is one.

A graph break, a recompilation or a step that was not captured costs more than the kernels under test save, and shows
in nothing but the time. So the counters of torch.compile are read: one graph, no break, nothing that kept it from
being captured into a CUDA graph, and still one graph after timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Mode = Literal["graph", "traced", "eager"]


class NotOneGraph(RuntimeError):
    """The step could not be compiled into one graph, was compiled again, or was not captured."""


def compiled(step: Callable[..., None], mode: Mode) -> Callable[..., None]:
    """The step under torch.compile; "traced" runs the one traced graph op by op, which any machine can.

    What was compiled before is forgotten: a process that measures many models would otherwise run into the limit of
    compilations of one function, and keep the graphs' memory.
    """
    torch.compiler.reset()
    options: dict[str, Any] = {"mode": "reduce-overhead"} if mode == "graph" else {"backend": "eager"}
    return torch.compile(step, fullgraph=True, dynamic=False, **options)


@dataclass
class Compilations:
    """What torch.compile counted within `with` blocks; what layers compile for themselves elsewhere is not meant."""

    graphs: int = 0
    breaks: dict[str, int] = field(default_factory=dict)
    skipped: int = 0  # graphs kept from being captured

    @contextmanager
    def counting(self) -> Iterator[None]:
        before = _counted()
        yield
        graphs, breaks, skipped = _counted()
        self.graphs += graphs - before[0]
        self.skipped += skipped - before[2]
        for reason, count in breaks.items():
            if count > before[1].get(reason, 0):
                self.breaks[reason] = self.breaks.get(reason, 0) + count - before[1].get(reason, 0)

    def assert_one_graph(self, mode: Mode, when: str) -> None:
        """Raises NotOneGraph with what was counted, unless it is one graph, without breaks and captured where asked."""
        problems = []
        if self.graphs != 1:
            problems.append(f"{self.graphs} graphs instead of 1")
        if self.breaks:
            said = "; ".join(self.breaks)[:500]
            problems.append(f"{sum(self.breaks.values())} graph breaks ({said})")
        if self.skipped:
            problems.append(
                f"{self.skipped} graphs kept from being captured (TORCH_LOGS=perf_hints says why)"
            )
        if mode == "graph" and not problems and not _captured():
            problems.append("no CUDA graph was recorded")
        if problems:
            raise NotOneGraph(f"the decoding step is not one compiled graph {when}: {', '.join(problems)}")


def _counted() -> tuple[int, dict[str, int], int]:
    from torch._dynamo.utils import counters

    breaks = {str(reason): int(count) for reason, count in counters["graph_break"].items()}
    return int(counters["stats"]["unique_graphs"]), breaks, int(counters["inductor"]["cudagraph_skips"])


def _captured() -> bool:
    """Has Inductor recorded a CUDA graph on the current device? True where this torch does not tell."""
    try:
        from torch._inductor.cudagraph_trees import get_container

        manager = get_container(torch.cuda.current_device()).tree_manager
        return manager is not None and any(manager.roots.values())
    except (ImportError, AttributeError):
        return True
