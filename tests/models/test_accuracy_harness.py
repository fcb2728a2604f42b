"""lm-evaluation-harness on a local file: an oracle solves all, random weights nothing, and ours agrees with it."""

import json
import os

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")
pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")
pytest.importorskip("accelerate", reason="the extra `lm-eval` is not installed")

from qbench.model.accuracy import exact_match
from qbench.model.accuracy.harness import offline, run_lm_eval, solved, write_task
from qbench.model.accuracy.problems import digest
from qbench.model.tiny import load_tiny, train
from qbench.model.tiny.load import NEW
from qbench.result import DataError


@pytest.fixture(scope="module")
def tiny():
    return load_tiny(dtype="float32")


@pytest.fixture
def file(tmp_path, tiny):
    path = tmp_path / "test.jsonl"
    path.write_text(
        "".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in tiny[2][:16])
    )
    return path


def _oracle(answers):
    from lm_eval.api.model import LM

    class Oracle(LM):
        """Knows the answer of each prompt it is asked."""

        def generate_until(self, requests, disable_tqdm=False):
            return [answers[request.args[0]] for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise AssertionError("not asked for")

        loglikelihood_rolling = loglikelihood

    return Oracle()


def test_a_gold_oracle_solves_all_and_one_wrong_answer_is_that_problem(tiny, file):
    answers = {f"Question: {p.question}\nAnswer:": f" {p.answer}" for p in tiny[2][:16]}
    assert solved(_oracle(answers), file) == (True,) * 16
    wrong = f"Question: {tiny[2][5].question}\nAnswer:"
    answers[wrong] += "0"
    assert solved(_oracle(answers), file) == tuple(i != 5 for i in range(16))


def test_random_weights_solve_nothing(tiny, file):
    model = train.build(3, tiny[1].eos_token_id)
    accuracy = run_lm_eval(model, tiny[1], file, name="random", recipe="bf16", new=8)
    assert accuracy.correct == (False,) * 16 and accuracy.digest == digest(tiny[2][:16])


def test_it_agrees_with_our_own_decoding(tiny, file):
    model, tokenizer, problems = tiny
    theirs = run_lm_eval(model, tokenizer, file, name="tiny", recipe="bf16", new=NEW, batch=8)
    assert theirs.correct == exact_match(model, tokenizer, problems[:16], new=NEW).correct
    assert theirs.score > 0.9


def test_worked_examples_are_shown_as_ours_are(tiny, file):
    from qbench.model.accuracy.problems import prompt

    shots = tiny[2][:2]
    answers = {prompt(p, shots): p.answer for p in tiny[2][:16]}
    assert all(solved(_oracle(answers), file, shots=file, count=2))


def test_a_bad_file_is_refused_before_anything_runs(tmp_path, file):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "a"}\n')
    with pytest.raises(DataError, match="line 1"):
        write_task(tmp_path, bad)
    with pytest.raises(ValueError, match="how many to show"):
        write_task(tmp_path, file, shots=file)
    with pytest.raises(ValueError, match="fewer than the 99"):
        write_task(tmp_path, file, shots=file, count=99)


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with offline():
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    assert os.environ["HF_HUB_OFFLINE"] == "0" and "HF_DATASETS_OFFLINE" not in os.environ
