"""GSM8K by lm-evaluation-harness (lm_eval 0.4.13, the extra `lm-eval`), from a local file and without a network.

Scores are then those of the field's tool, and this package only pairs them: the same prompts, greedy decoding and
strict match as `exact_match`, with lm_eval's own batching and stops. The task is written as YAML, so that
`lm_eval --include_path DIRECTORY --tasks qbench_gsm8k` on the command line does the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qbench.model.accuracy.measuring import describe_of, record
from qbench.model.accuracy.problems import STOPS, digest, read_problems
from qbench.model.accuracy.store import Accuracy

TASK = "qbench_gsm8k"
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "TRANSFORMERS_OFFLINE")
_YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {files}
  cache_dir: {cache}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
num_fewshot: {shots}
{fewshot}generation_kwargs:
  until: {stops}
  do_sample: false
  max_gen_toks: {new}
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\\\$", "(?s).*#### ", "\\\\.$"]
metadata:
  version: 1.0
"""


def write_task(
    directory: Path, problems: Path, *, shots: Path | None = None, count: int = 0, new: int = 256
) -> Path:
    """Write the task's YAML into `directory`; problems and shots: files in GSM8K's form, of which `count` are shown.

    DataError for a file that is not of this form. lm_eval shows the first `count` problems of `shots` before each.
    """
    read_problems(problems)
    files = {"test": str(problems.resolve())}
    if (shots is None) != (count == 0):
        raise ValueError(
            f"shots={shots} and count={count}: give a file of worked examples and how many to show"
        )
    if shots is not None:
        if len(read_problems(shots)) < count:
            raise ValueError(f"{shots} holds fewer than the {count} examples to show")
        files["train"] = str(shots.resolve())
    text = _YAML.format(
        task=TASK, files=json.dumps(files), cache=json.dumps(str(directory.resolve() / "cache")), shots=count,
        stops=json.dumps(list(STOPS)), new=new,
        fewshot="fewshot_split: train\nfewshot_config:\n  sampler: first_n\n" if count else "",
    )  # fmt: skip
    path = directory / f"{TASK}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run_lm_eval(
    model: Any,
    tokenizer: Any,
    problems: Path,
    *,
    name: str,
    recipe: str,
    shots: Path | None = None,
    count: int = 0,
    batch: int = 64,
    new: int = 256,
    labels: dict[str, str] | None = None,
) -> Accuracy:
    """A model object of transformers, wrapped as lm_eval's HFLM. ImportError names the extra where it is missing."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError(
            f"{error}; pip install 'pytest-qbench[lm-eval]' to run lm-evaluation-harness"
        ) from error

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    asked = read_problems(problems)
    correct = solved(lm, problems, shots=shots, count=count, new=new)
    shown = read_problems(shots)[:count] if shots is not None else ()
    return record(
        correct, digest(asked, shown), device=describe_of(model), name=name, recipe=recipe, task="gsm8k (lm-eval)",
        labels=labels,
    )  # fmt: skip


def solved(
    lm: Any, problems: Path, *, shots: Path | None = None, count: int = 0, new: int = 256
) -> tuple[bool, ...]:
    """Which problems of the file an LM of lm_eval solves by strict match, in the file's order."""
    with offline(), tempfile.TemporaryDirectory() as folder:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.tasks import TaskManager

        write_task(Path(folder), problems, shots=shots, count=count, new=new)
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(
            model=lm,
            tasks=[TASK],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
    samples = sorted(found["samples"][TASK], key=lambda sample: int(sample["doc_id"]))
    return tuple(sample["exact_match"] == 1.0 for sample in samples)


@contextmanager
def offline() -> Iterator[None]:
    """Libraries of Hugging Face look nothing up inside; what the environment said before holds again afterwards."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
