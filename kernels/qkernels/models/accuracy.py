"""How right a model stays under each recipe: problems solved, and KL on the tokens of answers or of a text.

Each recipe starts from the model as it was loaded. What is found of one is a file that `python -m qbench compare` reads
and compares per problem; the model without a recipe is measured first, since KL is from its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qbench.model.accuracy import (
    answer_windows,
    divergence_from,
    measure,
    read_problems,
    reference_logits,
    text_windows,
)

from .build import load
from .recipe import Recipe
from .support import Support, probe, support
from .swap import swap

if TYPE_CHECKING:
    from qbench.model.accuracy import Accuracy, Problem
    from qbench.model.accuracy.likelihood import Window

ANSWERS = 100  # problems on whose answers KL is taken where no text is given


@dataclass(frozen=True)
class Subject:
    """A model and what it is asked. load() makes it as it was, since a recipe changes it in place.

    problems and shots in GSM8K's form; parts: windows of tokens on which KL is taken; new: tokens of an answer at most.
    """

    name: str
    load: Callable[[], Any]
    tokenizer: Any
    problems: tuple[Problem, ...]
    task: str
    parts: tuple[Window, ...]
    shots: tuple[Problem, ...] = ()
    batch: int = 64
    new: int = 256


def tiny(device: str, *, dtype: str | None = None, count: int | None = None, batch: int = 64) -> Subject:
    """The tiny model of two-digit arithmetic and its held-out problems; on a CPU in float32 unless told otherwise."""
    from qbench.model.tiny import load_tiny
    from qbench.model.tiny.load import NEW

    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    _, tokenizer, problems = load_tiny(dtype=dtype)
    asked = problems[:count]
    parts = answer_windows(tokenizer, asked[:ANSWERS])
    return Subject("tiny-arithmetic", lambda: load_tiny(device=device, dtype=dtype)[0], tokenizer, asked,
                   "two-digit arithmetic", parts, batch=batch, new=NEW)  # fmt: skip


def local(
    folder: Path,
    device: str,
    *,
    problems: Path,
    shots: Path | None = None,
    text: Path | None = None,
    length: int = 512,
    dtype: str | None = None,
    count: int | None = None,
    batch: int = 64,
    new: int = 256,
) -> Subject:
    """A model of a local folder, asked the problems of a file (the task bears its name), after all those of `shots`.

    text: a file on whose windows of `length` tokens KL is taken; else it is taken on the problems' answers.
    FileNotFoundError for no such folder, DataError for a file of another form.
    """
    asked = read_problems(problems)[:count]
    shown = read_problems(shots) if shots else ()

    def load_model() -> Any:
        return load(folder, device=device, dtype=getattr(torch, dtype) if dtype else None)

    if not (folder / "config.json").is_file():
        load_model()  # says what is missing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if text is not None:
        parts = text_windows(tokenizer, text.read_text(encoding="utf-8"), length=length)
    else:
        parts = answer_windows(tokenizer, asked[:ANSWERS], shown)
    return Subject(
        folder.resolve().name, load_model, tokenizer, asked, problems.stem, parts, shown, batch, new
    )


def accuracies(
    subject: Subject, recipes: Sequence[Recipe], device: str
) -> Iterator[tuple[Recipe, Accuracy | Support]]:
    """Each recipe with what was found of it, or why it cannot run there. The one named "bf16" changes nothing: its
    logits are what KL is from, whether it is asked for or not."""
    stored = reference_logits(subject.load(), subject.parts)
    on_gpu = torch.device(device).type == "cuda"
    for recipe in recipes:
        found = probe(recipe, device) if on_gpu else support(recipe, device)
        if not found.ok:
            yield recipe, found
            continue
        model = subject.load()
        report = swap(model, recipe)
        likelihood = divergence_from(stored, model, subject.parts)
        labels = {
            "mode": report.mode,
            "backend": report.backend,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        }
        accuracy = measure(
            model, subject.tokenizer, subject.problems, name=subject.name, recipe=recipe.name, task=subject.task,
            shots=subject.shots, batch=subject.batch, new=subject.new, labels=labels, figures=likelihood.figures(),
        )  # fmt: skip
        del model  # the next one may not fit beside it
        yield recipe, accuracy
