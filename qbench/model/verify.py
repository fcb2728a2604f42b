"""Is what was decoded what the model says? Cached decoding against one forward of the whole text without any past.

Both see the same tokens, so logits, keys, values and states may differ by rounding alone: the sums have other orders,
and a compiled step rounds less often. How much one rounding moves them depends on the model (a quantized activation
near a threshold takes the next code), so it is measured: the forward is repeated with every element of the embeddings
moved by one unit in the last place of the model's dtype, up or down at random (by 2^-12 at least: in float32 hardly
any quantized activation would change its code). A rounding moves an element by 0.21 such units (rms), each of the L
layers has about 8 of them on the way of a value, and both sides make them: sqrt(2 * 8 L) * 0.21 = 0.84 sqrt(L) times
what was measured, doubled for chance; never less than four of what was measured, nor four units.

A wrong position shows in the keys, which are rotated by it: with random weights attention is so even that logits hardly
move. A token that is not the last one chosen, or a cache that was not emptied, shows in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qbench.check import Mismatch, WrongResult
from qbench.model.cache import attention_layers, cache_argument, dynamic_cache, states, text_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.model.decode import Decoder

ROWS = 4  # texts of a batch that are compared
# of their rms: transformers 5.17 to 5.24 limit Mamba's time step from below in a prompt's pass and not in a step, which
# moves recurrent states by 0.6% (a small random nemotron_h in float32; its logits by 1e-6)
_STATES = 0.02
EAGER_STEPS = 3  # steps that are repeated without a graph


@dataclass(frozen=True)
class Seen:
    """What a text left: named tensors [places, anything], judged place by place.

    again: the first places of the logits once more, from steps without a graph.
    """

    parts: dict[str, Tensor]
    again: Tensor | None = None


@dataclass(frozen=True)
class Decoded:
    """A checked run: its tokens [batch, 1 + new], the logits after the prompt and after the watched steps."""

    tokens: Tensor
    logits: dict[int, Tensor]  # -1 is the prefill

    def __post_init__(self) -> None:
        for step, logits in self.logits.items():
            if not torch.equal(logits.argmax(-1), self.tokens[:, step + 1]):
                raise WrongResult(f"the token after step {step} is not the one with the largest logit")


def watched(new: int) -> list[int]:
    """Steps whose logits are compared: the first three, the middle, the last."""
    return sorted({*range(min(EAGER_STEPS, new)), new // 2, new - 1})


@torch.no_grad()
def decoded(decoder: Decoder, *, decode: bool = True) -> Decoded:
    """Prefill and decode from the beginning, as they are timed."""
    steps = watched(decoder.new) if decode else []
    if decode:
        _ = decoder.run  # compiled before, for it starts the text anew
    decoder.reset()
    decoder.prefill()
    logits = {-1: decoder.logits.clone()}
    if decode:
        logits.update(decoder.decode(watch=steps))
    decoder.synchronize()
    return Decoded(decoder.tokens.clone(), logits)


def text_of(decoder: Decoder, run: Decoded) -> tuple[Tensor, Tensor]:
    """The tokens that were read, of a few texts [rows, length], and the places whose logits were kept: copies, for
    `found` writes to the decoder's own."""
    steps = max(run.logits) + 1  # the last token chosen was not read
    ids = decoder.history[:ROWS, : decoder.prompt + steps].clone()
    return ids, torch.tensor([decoder.prompt + step for step in sorted(run.logits)], device=ids.device)


def found(decoder: Decoder, run: Decoded) -> Seen:
    """What cached decoding left; where it was compiled, its first steps are repeated eagerly, on the same tokens."""
    ids, _ = text_of(decoder, run)
    logits = torch.stack([run.logits[step][: len(ids)] for step in sorted(run.logits)])
    seen = _seen(logits, decoder.cache, *ids.shape)
    if decoder.mode == "eager" or len(run.logits) == 1:
        return seen
    decoder.reset()
    decoder.prefill()
    again = [decoder.logits[: len(ids)].clone()]
    for step in range(min(EAGER_STEPS, decoder.new)):
        decoder.tokens[:, step] = run.tokens[:, step]
        decoder.step(decoder.history, decoder.position, decoder.logits)
        again.append(decoder.logits[: len(ids)].clone())
    return replace(seen, again=torch.stack(again).flatten(1).float())


@torch.no_grad()
def uncached(model: nn.Module, ids: Tensor, places: Tensor) -> Seen:
    """One forward of the whole text into an empty cache that nothing is read from."""
    cache = dynamic_cache(model)
    logits = model(
        input_ids=ids, use_cache=True, logits_to_keep=places, **{cache_argument(model): cache}
    ).logits
    return _seen(logits.transpose(0, 1), cache, *ids.shape)


def _seen(logits: Tensor, cache: Any, rows: int, length: int) -> Seen:
    parts = {"logits": logits}
    for index, layer in attention_layers(cache):
        if layer.keys.shape[-2] < length:
            continue  # a window has forgotten the beginning; its logits speak for it
        for name in ("keys", "values"):
            parts[f"{name} of layer {index}"] = getattr(layer, name)[:rows, :, :length].permute(2, 0, 1, 3)
    for name, state in states(cache):
        parts[name] = state[None, :rows]
    return Seen({name: part.flatten(1).to(torch.float32, copy=True) for name, part in parts.items()})


@contextmanager
def _moved_embeddings(model: nn.Module, by: float) -> Iterator[None]:
    """Every element of what the embedding gives moved by the relative amount `by`, up or down."""

    def move(module: nn.Module, args: object, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        sign = torch.randint(2, output.shape, generator=generator).to(output.device) * 2 - 1
        return (output.float() * (1 + by * sign)).to(output.dtype)

    find: Any = model.get_input_embeddings
    handle = find().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def agrees(
    output: Seen, inputs: tuple[Any, ...], reference: Callable[..., Seen], accumulator: str = "fp32"
) -> Mismatch | None:
    """None, or the first part that differs by more than rounding and the places where it does.

    inputs: the model, ids [rows, length], and the places of the logits.
    """
    model = inputs[0]
    wanted = reference(*inputs)
    eps = torch.finfo(next(model.parameters()).dtype).eps
    with _moved_embeddings(model, max(eps, 2.0**-12)):
        moved = reference(*inputs)
    factor = max(4.0, 1.7 * math.sqrt(text_config(model).num_hidden_layers))
    for name, theirs in wanted.parts.items():
        ours = output.parts.get(name)
        if ours is None or ours.shape != theirs.shape:
            return Mismatch(f"{name} is missing or not of shape {list(theirs.shape)}", 1, 1)
        size = _total(_rms(theirs))
        noise = _rms(moved.parts[name] - theirs)
        allowed = factor * torch.maximum(noise, _total(noise)) + 4 * eps * size
        if name.startswith("recurrent"):
            allowed += _STATES * size
        said = f"{name} of cached decoding against a forward without a cache"
        if problem := _problem(said, _rms(ours - theirs), allowed, size):
            return problem
        if name == "logits" and output.again is not None:
            few = len(output.again)
            said = "logits of replayed steps against eager ones"
            if problem := _problem(said, _rms(ours[:few] - output.again), allowed[:few], size):
                return problem
    return None


def _problem(what: str, error: Tensor, allowed: Tensor, size: Tensor) -> Mismatch | None:
    """Places whose error is not within what rounding explains; NaN is not."""
    bad = ~(error <= allowed)
    if not bool(bad.any()):
        return None
    place = int(bad.nonzero()[0])
    off, most = (float(each[place] / size) for each in (error, allowed))
    details = f"first at place {place}: off by {off:.2%} of the rms, rounding explains {most:.2%}"
    return Mismatch(f"{what}: more than rounding", int(bad.sum()), len(bad), details)


def _rms(values: Tensor) -> Tensor:
    """Root mean square of each place."""
    return values.square().mean(1).sqrt()


def _total(rms: Tensor) -> Tensor:
    return rms.square().mean().sqrt()
