"""Problems and accuracy files: read strictly, compared only where the same was asked."""

import json

import msgspec
import pytest

from qbench.model.accuracy.problems import Problem, digest, extract, prompt, read_problems
from qbench.model.accuracy.store import Accuracy, compare, markdown, read_accuracy, write_accuracy
from qbench.result import DataError, Device

DEVICE = Device(kind="cpu", name="Some CPU", capability="", units=2, memory_gib=8)
PROBLEMS = (Problem("1 and 2?", "1+2=3\n#### 3"), Problem("How much?", "A lot.\n#### 1,234"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2+2=4\n#### 4", "4"),
        ("#### 1,234.", "1234"),
        ("#### -7", "-7"),
        ("#### 12.50", "12.50"),
        ("#### 3\n#### 4", "3"),  # the first, as GSM8K's own code and lm-eval take it
        ("the answer is 4", None),
        ("####4", None),
        ("#### four", None),
        ("#### .", None),
        ("", None),
    ],
)
def test_extraction_is_strict(text, number):
    assert extract(text) == number


def test_the_prompt_shows_examples_first():
    shown = prompt(PROBLEMS[0], shots=PROBLEMS[1:])
    assert shown == "Question: How much?\nAnswer: A lot.\n#### 1,234\n\nQuestion: 1 and 2?\nAnswer:"


def test_the_digest_is_of_what_was_asked():
    same = digest(PROBLEMS)
    assert same == digest(list(PROBLEMS)) and len(same) == 64
    others = [
        digest(PROBLEMS[::-1]),
        digest(PROBLEMS[:1]),
        digest(PROBLEMS, shots=PROBLEMS[:1]),
        digest((Problem("1 and 2?", "#### 4"), PROBLEMS[1])),
    ]
    assert len({same, *others}) == 5


def test_problems_are_read_as_gsm8k_is_published(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(msgspec.to_builtins(p)) + "\n" for p in PROBLEMS) + "\n")
    assert read_problems(path) == PROBLEMS
    assert [p.gold for p in PROBLEMS] == ["3", "1234"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "a", "answer": "4"}', "line 1: answer '4' has no line"),
        ('{"question": "a"}', "line 1.*answer"),
        ('{"question": "a", "answer": "#### 4", "id": 1}', "line 1.*id"),
        ("not json", "line 1"),
        ("\n\n", "holds no problem"),
    ],
)
def test_bad_problems_name_file_and_line(tmp_path, line, words):
    path = tmp_path / "test.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=words) as caught:
        read_problems(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_of_problems_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_problems(tmp_path / "none.jsonl")


def _accuracy(recipe="bf16", correct=(True, False), **changes):
    fields = {
        "schema": 1, "at": "2026-01-01T00:00:00Z", "device": DEVICE, "versions": {"torch": "2"}, "model": "tiny",
        "recipe": recipe, "task": "arithmetic", "digest": digest(PROBLEMS), "correct": tuple(correct),
    }  # fmt: skip
    return Accuracy(**fields | changes)


def test_what_is_written_is_read_again(tmp_path):
    accuracy = _accuracy(figures={"perplexity": 2.5}, labels={"mode": "native"})
    write_accuracy(tmp_path / "a" / "x.json", accuracy)
    assert read_accuracy(tmp_path / "a" / "x.json") == accuracy
    assert accuracy.score == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"correct": []}, "holds no problem"),
        ({"correct": [1, 0]}, "Expected `bool`"),
        ({"digest": "abc"}, "no SHA-256"),
        ({"surprise": 1}, "surprise"),
        ({"recipe": None}, "recipe"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, change, words):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(msgspec.to_builtins(_accuracy()) | change))
    with pytest.raises(DataError, match=words):
        read_accuracy(path)


def test_nothing_unreadable_is_written(tmp_path):
    with pytest.raises(ValueError, match="holds no problem"):
        write_accuracy(tmp_path / "x.json", _accuracy(correct=()))
    assert not list(tmp_path.iterdir())


def test_only_like_is_compared():
    reference = _accuracy()
    assert compare(reference, _accuracy("nvfp4", (False, False))).only_a == 1
    for change in ({"digest": digest(PROBLEMS[:1])}, {"task": "gsm8k"}, {"model": "other"}):
        with pytest.raises(ValueError, match=f"differ in {next(iter(change))}"):
            compare(reference, _accuracy("nvfp4", **change))


def test_the_table_compares_with_the_reference():
    text = markdown(_accuracy(), [_accuracy("nvfp4", (False, False), labels={"mode": "emulated"})])
    assert text.splitlines()[2].startswith("| bf16 |  | 0.500 |")
    assert "| nvfp4 | emulated | 0.000 | -50.0 |" in text and "| 1 / 0 | 1 |" in text
