"""Accuracies across GPUs: each recipe with its interval, and against the baseline on the same GPU, per problem.

Two accuracies of 1319 problems differ by up to three points by chance alone; on the same problems far less does. So
files of one task must hold the same problems (by digest), and unequal ones are refused rather than compared unpaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.compare import CannotCombine
from qbench.model.accuracy import Accuracy
from qbench.model.compare.gpus import published_gpu
from qbench.model.compare.rates import Difference, interval, of_counts, per_problem
from qbench.model.compare.read import Inputs


@dataclass(frozen=True)
class AccuracyRow:
    """One recipe's right answers on one GPU with a 95% interval; `versus`: against the baseline, if there is one."""

    gpu: str
    recipe: str
    right: int
    of: int
    low: float
    high: float
    versus: Difference | None
    mode: str = ""
    backend: str = ""

    @property
    def share(self) -> float:
        return self.right / self.of


@dataclass(frozen=True)
class AccuracyGroup:
    """One model on one task: rows by GPU, the baseline first. Published counts make a group of their own."""

    model: str
    task: str
    of: int
    rows: tuple[AccuracyRow, ...]
    published: bool = False

    @property
    def gpus(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.gpu for row in self.rows))


@dataclass(frozen=True)
class _Answers:
    """From a file (`correct` is known) or from a published line (a count alone)."""

    gpu: str
    model: str
    recipe: str
    task: str
    right: int
    of: int
    source: str
    digest: str = ""
    correct: tuple[bool, ...] | None = None
    mode: str = ""
    backend: str = ""

    @property
    def key(self) -> tuple[str, str, bool]:
        """What is shown together. Nobody can check that published counts are of the same problems as a file's."""
        return self.model, self.task, self.correct is None


def accuracy_groups(inputs: Inputs, baseline: str) -> tuple[AccuracyGroup, ...]:
    """Join. Raises CannotCombine for different problems under one task, or one recipe measured twice on one GPU."""
    gpus = inputs.gpus
    found = [_of_file(source, each, gpus[each.device.key]) for source, each in inputs.accuracies]
    for source, table in inputs.published:
        for line in table.rows:
            if line.correct is not None and line.of is not None:
                gpu = published_gpu(line.gpu, line.capability)
                counted = (line.task, line.correct, line.of, source)
                found.append(
                    _Answers(gpu, line.model, line.recipe, *counted, mode=line.mode, backend=line.backend)
                )
    groups = []
    for key in dict.fromkeys(each.key for each in found):
        members = [each for each in found if each.key == key]
        _same_problems(members)
        _once_each(members)
        order = list(dict.fromkeys(each.gpu for each in members))
        recipes = list(dict.fromkeys([baseline, *(each.recipe for each in members)]))
        members.sort(key=lambda each: (order.index(each.gpu), recipes.index(each.recipe)))
        rows = tuple(_row(each, _baseline(each, members, baseline)) for each in members)
        groups.append(AccuracyGroup(key[0], key[1], members[0].of, rows, published=key[2]))
    return tuple(groups)


def _of_file(source: str, each: Accuracy, gpu: str) -> _Answers:
    right, of = sum(each.correct), len(each.correct)
    return _Answers(
        gpu,
        each.model,
        each.recipe,
        each.task,
        right,
        of,
        source,
        each.digest,
        each.correct,
        each.labels.get("mode", ""),
        each.labels.get("backend", ""),
    )


def _same_problems(members: Sequence[_Answers]) -> None:
    first = members[0]
    for other in members[1:]:
        if other.digest == first.digest and other.of == first.of:
            continue
        raise CannotCombine(
            f"different problems under the task {first.task!r} of {first.model}: {first.source} holds {_named(first)}, "
            f"{other.source} {_named(other)}; measure both on one file of problems"
        )


def _named(each: _Answers) -> str:
    return f"{each.of} with digest {each.digest[:12]}" if each.digest else f"a count of {each.of}"


def _once_each(members: Sequence[_Answers]) -> None:
    seen: dict[tuple[str, str], _Answers] = {}
    for each in members:
        before = seen.setdefault((each.gpu, each.recipe), each)
        if before is not each:
            raise CannotCombine(
                f"{each.task} of {each.recipe} on {each.gpu} is in {before.source} and in {each.source}; leave out one"
            )


def _baseline(each: _Answers, members: Sequence[_Answers], baseline: str) -> _Answers | None:
    if each.recipe == baseline:
        return None
    return next((other for other in members if (other.gpu, other.recipe) == (each.gpu, baseline)), None)


def _row(each: _Answers, base: _Answers | None) -> AccuracyRow:
    versus = None
    if base and each.correct is not None and base.correct is not None:
        versus = per_problem(base.correct, each.correct)
    elif base:
        versus = of_counts((base.right, base.of), (each.right, each.of))
    low, high = interval(each.right, each.of)
    return AccuracyRow(each.gpu, each.recipe, each.right, each.of, low, high, versus, each.mode, each.backend)
