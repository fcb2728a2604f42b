"""Problems in GSM8K's form: a question, and an answer whose last line is `#### n` (Cobbe et al. 2021).

A file is JSON lines with exactly the fields `question` and `answer`, as GSM8K is published. What a model is asked is
the text of `prompt`: lm-evaluation-harness's task `gsm8k`, so that scores of both can be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from qbench.result import DataError

STOPS = ("Question:",)
"""Where an answer ends if the model does not: a base model goes on with a question of its own."""

_ANSWER = re.compile(r"#### (-?[0-9.,]+)")  # openai/grade-school-math, and lm-eval's strict match


class Problem(Struct, frozen=True, forbid_unknown_fields=True):
    """A question and its worked answer, the last line of which is `#### n`."""

    question: str
    answer: str

    @property
    def gold(self) -> str:
        """The number after `####`; ValueError where the answer has none."""
        number = extract(self.answer)
        if number is None:
            raise ValueError(f"answer {self.answer[-40:]!r} has no line '#### <number>', as GSM8K's have")
        return number


def extract(text: str) -> str | None:
    """The number after the first `#### `, without thousands separators and full stop; None where there is none.

    Strict: a right number elsewhere in the text is no answer. `#### 1,234.` is 1234, and `#### 12.0` is not 12.
    """
    found = _ANSWER.search(text)
    if found is None:
        return None
    number = found.group(1).replace(",", "").removesuffix(".")
    return number or None


def prompt(problem: Problem, shots: Sequence[Problem] = ()) -> str:
    """The text that the model continues: worked examples, then the question."""
    asked = [f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" for shot in shots]
    return "".join(asked) + f"Question: {problem.question}\nAnswer:"


def digest(problems: Sequence[Problem], shots: Sequence[Problem] = ()) -> str:
    """SHA-256 of what is asked and expected, in order: files of equal digest may be compared per problem."""
    asked = [(prompt(problem, shots), problem.gold) for problem in problems]
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def read_problems(path: Path) -> tuple[Problem, ...]:
    """Read JSON lines. DataError names the file and the line, also for an answer without `#### n`."""
    remedy = 'write one {"question": ..., "answer": "... #### n"} a line'
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    problems = []
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            problem = msgspec.json.decode(line, type=Problem)
            assert problem.gold
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}: line {count}: {error}; {remedy}") from error
        problems.append(problem)
    if not problems:
        raise DataError(f"{path}: holds no problem; {remedy}")
    return tuple(problems)
