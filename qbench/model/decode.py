"""Greedy decoding with everything on the device: one prompt, a fixed number of tokens, no test for an end.

`prefill` reads the prompt and chooses the first token; `decode` makes `new` more, each by one step that reads its
token and position from device memory, chooses the next by argmax and writes both back. The host queues steps and
waits for none of them. `generate` of transformers is a check of this, not the timer: it asks the device after each
token whether the text has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import cached_property

import torch
from torch import Tensor, nn

from qbench.model.attention import from_the_beginning, group_heads, is_grouped
from qbench.model.cache import (
    counters,
    forward,
    is_plain,
    prompt_tokens,
    rewind,
    states,
    static_cache,
    text_config,
)
from qbench.model.graph import Compilations, Mode, NotOneGraph, captured, compiled


def largest(logits: Tensor) -> Tensor:
    """[batch, 1]: where each text's logits [batch, vocabulary] are largest, the first such place.

    In two steps: torch.compile makes one program of a row of 128256, which took 30 us of a step on an H200.
    """
    batch, vocabulary = logits.shape
    size = next((size for size in range(512, 63, -8) if vocabulary % size == 0), 0)
    if not size:
        return logits.argmax(-1, keepdim=True)
    parts = logits.view(batch, -1, size)
    tops = parts.amax(-1)
    part = tops.argmax(-1, keepdim=True)
    chosen = parts.gather(1, part[..., None].expand(-1, -1, size))[:, 0]
    return part * size + chosen.argmax(-1, keepdim=True)


class Decoder:
    """A model with a static cache, ready to decode `new` tokens after a prompt [batch, prompt] of random tokens.

    mode: "graph" is one compiled graph captured into a CUDA graph and replayed (the default on a GPU), "traced" one
    traced graph run op by op, "eager" the model's own Python (the default on a CPU). Nothing is compiled before the
    first `decode`. The model's attention is grouped (qbench.model.attention). The prompt is read by the model's own
    Python, whose launches are a CUDA graph of their own in mode "graph": compiling would take a minute for each length,
    and without a graph it is the host that is timed (67 ms for Llama-3.1-8B and 128 tokens beside an H200).
    uncaptured: why the prompt's pass is not replayed in mode "graph", or "".
    history [batch, prompt + 1 + new] holds the prompt and every token chosen; position [1] is the place of the token
    that the next step reads; logits [batch, vocabulary] are those of the last step. seen [1, 1, 1, places], where one
    mask does for all layers: 0 for the places that the next step attends to, -inf for others. Made by the model in each
    step, it would be written anew for each layer.
    """

    def __init__(
        self, model: nn.Module, *, batch: int, prompt: int, new: int, seed: int = 0, mode: Mode | None = None
    ) -> None:
        for name, value in (("batch", batch), ("prompt", prompt), ("new", new)):
            if value < 1:
                raise ValueError(f"{name} {value}: expected a whole number of at least 1")
        self.model = group_heads(model.eval())
        self.batch, self.prompt, self.new, self.seed = batch, prompt, new, seed
        weight = next(model.parameters())
        self.device = weight.device
        self.mode: Mode = mode or ("graph" if self.device.type == "cuda" else "eager")
        vocabulary = int(text_config(model).vocab_size)
        self.cache = static_cache(model, prompt + new)
        self.history = torch.zeros(batch, prompt + 1 + new, dtype=torch.int64, device=self.device)
        self.history[:, :prompt] = prompt_tokens(vocabulary, batch, prompt, seed)
        self.position = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.logits = torch.zeros(batch, vocabulary, dtype=weight.dtype, device=self.device)
        self.seen: Tensor | None = None
        if is_plain(self.cache) and is_grouped(self.model):
            places = self.cache.layers[0].max_cache_len
            self.seen = torch.zeros(1, 1, 1, places, dtype=weight.dtype, device=self.device)
        self.uncaptured = ""
        self.compile_s = 0.0
        self.compilations = Compilations()

    @torch.no_grad()
    def reset(self) -> None:
        """Forget everything but the prompt."""
        self.cache.reset()
        self.position.zero_()
        self.history[:, self.prompt :] = 0

    def prefill(self) -> None:
        """Read the prompt into the empty cache and choose the first token."""
        self._read()

    @torch.no_grad()
    def _prompt(self) -> None:
        positions = torch.arange(self.prompt, device=self.device)[None]
        with from_the_beginning():
            logits = forward(
                self.model, self.history[:, : self.prompt], cache=self.cache, positions=positions
            )
        self.logits.copy_(logits[:, -1])
        self.history[:, self.prompt] = largest(self.logits)[:, 0]
        self._place_at_prompt()

    def _place_at_prompt(self) -> None:
        """The next step reads the token behind the prompt."""
        self.position.fill_(self.prompt)
        if self.seen is not None:
            self.seen.fill_(-torch.inf)
            self.seen[..., : self.prompt + 1] = 0

    @torch.no_grad()
    def rewind(self) -> bool:
        """Back to the end of the prompt, to time the same steps again. False where the cache cannot (see `rewind`)."""
        self._place_at_prompt()
        return rewind(self.cache, self.prompt)

    @cached_property
    def _read(self) -> Callable[[], None]:
        """The prompt's pass, captured if it can be. A cache that Python keeps a record of would miss a replay."""
        if self.mode != "graph":
            return self._prompt
        self._prompt()  # makes the cache's tensors
        try:
            if counters(self.cache) is None or any(True for _ in states(self.cache)):
                raise NotOneGraph("Python counts what the cache holds")
            self.reset()
            return captured(self._prompt, self.device)
        except NotOneGraph as error:
            self.uncaptured = str(error)
            return self._prompt
        finally:
            self.reset()

    @torch.no_grad()
    def step(self, history: Tensor, position: Tensor, logits: Tensor) -> None:
        """The token at `position` goes in, the next one is written behind it. All arguments are changed in place."""
        token = history.index_select(1, position)
        made = forward(self.model, token, cache=self.cache, positions=position[None], mask=self.seen)
        logits.copy_(made[:, -1])
        position.add_(1)
        history.index_copy_(1, position, largest(logits))
        if self.seen is not None:  # after the last step there may be no further place
            self.seen.index_fill_(-1, position.clamp(max=self.seen.shape[-1] - 1), 0.0)

    @torch.no_grad()
    def decode(self, steps: int | None = None, *, watch: Collection[int] = ()) -> dict[int, Tensor]:
        """Queue `steps` steps (all `new` of them by default); copies of the logits after the steps in `watch`."""
        seen = {}
        run = self.run
        with self.compilations.counting():
            for index in range(self.new if steps is None else steps):
                run()
                if index in watch:
                    seen[index] = self.logits.clone()
        return seen

    @cached_property
    def run(self) -> Callable[[], None]:
        """The step as it is timed, on the decoder's own tensors: compiled, warmed up and captured when first asked for.

        The cache's tensors exist by then. Raises NotOneGraph.
        """
        if self.mode == "eager":
            return self._bound(self.step)
        run = self._bound(compiled(self.step, self.mode, self.device))
        try:
            self._begin()
            self.synchronize()
            start = time.perf_counter()
            with self.compilations.counting():
                run()
                self.synchronize()
                self.compile_s = time.perf_counter() - start
            self._begin()
            with self.compilations.counting():
                run()  # would it be compiled again?
        except torch._dynamo.exc.Unsupported as error:
            raise NotOneGraph(
                f"the decoding step cannot be compiled into one graph: {str(error).strip()[:1500]}"
            ) from error
        if self.mode == "graph":
            self._begin()
            run = captured(run, self.device)
        self.synchronize()
        self.compilations.assert_one_graph("after warming up")
        self._begin()
        return run

    def _bound(self, step: Callable[..., None]) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            step(self.history, self.position, self.logits)

        return run

    def _begin(self) -> None:
        self.reset()
        self.prefill()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def tokens(self) -> Tensor:
        """What was decoded, [batch, 1 + new]: the prefill's token first."""
        return self.history[:, self.prompt :]
