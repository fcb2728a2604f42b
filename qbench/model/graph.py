"""One compiled graph of a whole decoding step, captured into one CUDA graph, and the proof that it is one.

A graph break, a recompilation or a step that was not captured costs more than the kernels under test save, and shows
in nothing but the time. So the counters of torch.compile are read: one graph, no break, and still one after timing.

The capture is made here and not by mode="reduce-overhead", and replaying it asks nothing: that mode checks thousands of
guards before each replay, which took 2 ms of the host's 3.8 a step in a model of 224 quantized layers and made them
seem slow. Engines that serve replay as is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Mode = Literal["graph", "traced", "eager"]


class NotOneGraph(RuntimeError):
    """The step could not be compiled into one graph, was compiled again, or could not be captured."""


def compiled(step: Callable[..., None], mode: Mode, device: torch.device) -> Callable[..., None]:
    """The step under torch.compile for that device; "traced" runs the one traced graph op by op, which any machine can.

    From sm_90 on, the kernels that torch.compile writes begin while those before them end (Inductor's enable_pdl), as
    engines' kernels do. What was compiled before is forgotten: a process that measures many models would otherwise run
    into the limit of compilations of one function, and keep the graphs' memory.
    """
    torch.compiler.reset()
    if mode != "graph":
        return torch.compile(step, fullgraph=True, dynamic=False, backend="eager")
    options: dict[str, Any] | None = {"triton.enable_pdl": True} if _early_launches(device) else None
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)


def _early_launches(device: torch.device) -> bool:
    import torch._inductor.config as inductor

    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and hasattr(inductor.triton, "enable_pdl")
    )


def captured(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A replay of what `run` launches on that CUDA device, as one graph. It has run before, and runs once more here.
    Raises NotOneGraph where it waits for the device or does what cannot be captured."""
    with torch.cuda.device(device):
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            run()  # workspaces that libraries keep for each stream are allocated outside of the graph
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            with torch.cuda.stream(current), torch.cuda.graph(graph, stream=stream):
                run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            generator.graphsafe_set_state(state)  # a broken capture leaves torch's generator refusing to work
            torch.cuda.synchronize()
            raise NotOneGraph(f"it cannot be captured: {str(error).strip()[:500]}") from error
    return graph.replay


@dataclass
class Compilations:
    """What torch.compile counted within `with` blocks; what layers compile for themselves elsewhere is not meant."""

    graphs: int = 0
    breaks: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def counting(self) -> Iterator[None]:
        before = _counted()
        yield
        graphs, breaks = _counted()
        self.graphs += graphs - before[0]
        for reason, count in breaks.items():
            if count > before[1].get(reason, 0):
                self.breaks[reason] = self.breaks.get(reason, 0) + count - before[1].get(reason, 0)

    def assert_one_graph(self, when: str) -> None:
        """Raises NotOneGraph with what was counted, unless it is one graph without breaks."""
        problems = []
        if self.graphs != 1:
            problems.append(f"{self.graphs} graphs instead of 1")
        if self.breaks:
            said = "; ".join(self.breaks)[:500]
            problems.append(f"{sum(self.breaks.values())} graph breaks ({said})")
        if problems:
            raise NotOneGraph(f"the decoding step is not one compiled graph {when}: {', '.join(problems)}")


def _counted() -> tuple[int, dict[str, int]]:
    from torch._dynamo.utils import counters

    breaks = {str(reason): int(count) for reason, count in counters["graph_break"].items()}
    return int(counters["stats"]["unique_graphs"]), breaks
