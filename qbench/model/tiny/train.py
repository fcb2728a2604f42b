"""Make the tiny model: a two-layer Llama of 0.38 M parameters that adds and subtracts two-digit numbers.

Big enough that four-bit arithmetic costs it measurable accuracy, small enough to be stored here and to run on a CPU.
Digits are tokens of their own: on raw bytes, and with digits merged, a model of this size did not learn in this time.
Dimensions are multiples of 128, so that every FP4 block and every Hadamard size fits.

Everything is drawn from the seed. Equal bytes are to be expected on one machine with one torch; elsewhere sums are
added in another order, and the model is another that is as good.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from qbench.model.accuracy.problems import Problem, prompt
from qbench.model.tiny.load import CHECKSUMS, FILES, load_tokenizer, sha256
from qbench.model.tiny.wording import Pair, split, tell
from qbench.result import write_atomic

HELD_OUT = 400
VOCABULARY = 384
END = "<end>"
STEPS, BATCH, RATE, WARMUP = 1200, 64, 4e-3, 50


def make(
    directory: Path, *, seed: int = 0, steps: int = STEPS, say: Callable[[str], None] = lambda line: None
) -> None:
    """Train and write FILES and their checksums into `directory`."""
    from safetensors.torch import save

    directory.mkdir(parents=True, exist_ok=True)
    pairs, held_out = split(seed, HELD_OUT)
    draw = random.Random(seed + 1)
    problems = [tell(pair, draw) for pair in held_out]
    tokenizer_json = train_tokenizer([written(tell(pair, draw)) for pair in pairs])
    write_atomic(directory / "tokenizer.json", tokenizer_json.encode())
    lines = b"".join(msgspec.json.encode(problem) + b"\n" for problem in problems)
    write_atomic(directory / "problems.jsonl", lines)
    model = build(seed, load_tokenizer(directory).eos_token_id)
    train(model, load_tokenizer(directory), pairs, draw, steps=steps, say=say)
    weights = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embedding
    write_atomic(directory / "weights.safetensors", save(weights))
    config = model.config.to_diff_dict()
    config.pop("transformers_version", None)
    write_atomic(directory / "config.json", msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    sums = {name: sha256(directory / name) for name in FILES}
    write_atomic(directory / CHECKSUMS, msgspec.json.format(msgspec.json.encode(sums)) + b"\n")


def written(problem: Problem) -> str:
    """What the model is trained on: the prompt and, after a space, its answer."""
    return f"{prompt(problem)} {problem.answer}"


def train_tokenizer(texts: Sequence[str]) -> str:
    """A byte-level BPE of VOCABULARY tokens in which digits stand alone, as the text of tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=True)) + "\n"


def build(seed: int, end: int) -> Any:
    """The untrained model, float32: 2 layers, width 128, 4 heads, feed-forward 256."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    draw: random.Random,
    *,
    steps: int,
    say: Callable[[str], None],
) -> None:
    """AdamW on the answers' tokens alone (a question's words cannot be foretold), cosine rate after a warm-up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    began = time.monotonic()
    model.train()
    for step in range(steps):
        tokens, labels = batch_of(tokenizer, [tell(draw.choice(pairs), draw) for _ in range(BATCH)])
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            say(f"step {step + 1}/{steps}: loss {loss.item():.4f}, {time.monotonic() - began:.0f} s")
    model.train(False)


def batch_of(tokenizer: Any, problems: Sequence[Problem]) -> tuple[Tensor, Tensor]:
    """Tokens and labels [batch, longest], padded at the right; -100 where no loss is taken."""
    asked = [tokenizer(prompt(problem)).input_ids for problem in problems]
    rows = [[*tokenizer(written(problem)).input_ids, tokenizer.eos_token_id] for problem in problems]
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), tokenizer.eos_token_id)
    labels = torch.full((len(rows), longest), -100)
    for i, (row, start) in enumerate(zip(rows, asked, strict=True)):
        assert row[: len(start)] == start, "a prompt's tokens must be the beginning of its text's"
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, len(start) : len(row)] = torch.tensor(row[len(start) :])
    return tokens, labels


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.05 + 0.475 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))
