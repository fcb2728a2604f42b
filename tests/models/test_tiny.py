"""The tiny model: what is stored is what was made, it is right, and the script that made it works."""

import pickle
import random
import shutil

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")

import torch

from qbench.model.accuracy import measure, read_accuracy, write_accuracy
from qbench.model.accuracy.decode import exact_match, generate, pad_left
from qbench.model.accuracy.problems import Problem, digest
from qbench.model.tiny import load_tiny, train
from qbench.model.tiny.__main__ import main
from qbench.model.tiny.load import CHECKSUMS, FILES, HERE, NEW, sha256
from qbench.model.tiny.wording import LESS, MORE, split, tell, worked
from qbench.result import DataError


@pytest.fixture(scope="module")
def tiny():
    return load_tiny(dtype="float32")


@pytest.fixture(scope="module")
def answers(tiny):
    model, tokenizer, problems = tiny
    return exact_match(model, tokenizer, problems, new=NEW)


def test_it_solves_what_it_has_never_seen(answers):
    assert len(answers.correct) == 400 and answers.score >= 0.99
    assert answers.unfinished <= 4


def test_it_is_small_and_fits_every_block_and_rotation(tiny):
    model = tiny[0]
    assert sum((HERE / name).stat().st_size for name in FILES) < 2 << 20
    assert 370_000 < sum(p.numel() for p in model.parameters()) < 390_000
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 15 and all(m.in_features % 128 == m.out_features % 128 == 0 for m in linear)


def test_the_answer_does_not_depend_on_the_batch(tiny, answers):
    """Batches of 1, 7 and 64 give the same texts; prompts have many lengths, so most are padded."""
    model, tokenizer, problems = tiny
    some = problems[:24]
    alone = exact_match(model, tokenizer, some, new=NEW, batch=1)
    assert exact_match(model, tokenizer, some, new=NEW, batch=7) == alone
    assert alone.texts == answers.texts[:24]
    assert len({len(tokenizer(problem.question).input_ids) for problem in some}) > 4


def test_padding_that_is_not_masked_is_noticed(tiny, answers, monkeypatch):
    """The check above can fail: with padding attended to, or positions counted from the padding, texts change."""
    from qbench.model.accuracy import decode

    def unmasked(rows, fill, device):
        tokens, mask = pad_left(rows, fill, device)
        return tokens, torch.ones_like(mask)

    model, tokenizer, problems = tiny
    order = sorted(problems[:24], key=lambda p: len(p.question))
    mixed = [p for pair in zip(order[:12], order[::-1][:12], strict=True) for p in pair]
    monkeypatch.setattr(decode, "pad_left", unmasked)
    broken = exact_match(model, tokenizer, mixed, new=NEW, batch=24)
    right = dict(zip((p.question for p in problems), answers.texts, strict=True))
    assert [right[p.question] for p in mixed] != list(broken.texts)


def test_what_is_measured_is_stored_with_what_it_was_measured_on(tiny, answers, tmp_path):
    model, tokenizer, problems = tiny
    found = measure(
        model, tokenizer, problems[:6], name="tiny", recipe="bf16", task="arithmetic", new=NEW,
        labels={"mode": "none"}, figures={"top1": 1.0},
    )  # fmt: skip
    assert found.correct == answers.correct[:6] and found.digest == digest(problems[:6])
    assert found.device.kind == "cpu" and found.device.units >= 1 and "torch" in found.versions
    assert found.figures == {"unfinished": 0.0, "top1": 1.0} and found.labels == {"mode": "none"}
    write_accuracy(tmp_path / "bf16.json", found)
    assert read_accuracy(tmp_path / "bf16.json") == found


def test_decoding_stops_at_a_text_and_says_what_did_not_stop(tiny):
    model, tokenizer, problems = tiny
    prompts = [f"Question: {p.question}\nAnswer:" for p in problems[:4]]
    (whole, *_), done = generate(model, tokenizer, prompts, batch=4, new=NEW)
    assert all(done) and "\n####" in whole
    cut, done = generate(model, tokenizer, prompts, batch=4, new=NEW, stops=("\n####", "never"))
    assert cut[0] == whole[: whole.index("\n####")] and all(done)
    cut, done = generate(model, tokenizer, prompts, batch=4, new=3)
    assert not any(done) and whole.startswith(cut[0])
    assert exact_match(model, tokenizer, problems[:4], new=3).unfinished == 4
    with pytest.raises(ValueError, match="at least 1"):
        generate(model, tokenizer, prompts, batch=0, new=3)
    with pytest.raises(ValueError, match="no problems"):
        exact_match(model, tokenizer, ())


def test_shots_are_shown_first(tiny):
    """The model never saw two problems in one text: asked so, it answers otherwise."""
    model, tokenizer, problems = tiny
    plain = exact_match(model, tokenizer, problems[:8], new=NEW)
    shown = exact_match(model, tokenizer, problems[:8], new=NEW, shots=problems[8:10])
    assert shown.texts != plain.texts
    assert digest(problems[:8]) != digest(problems[:8], problems[8:10])


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_before_it_is_read(tmp_path, name):
    for file in (*FILES, CHECKSUMS):
        shutil.copy(HERE / file, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: SHA-256 is {sha256(tmp_path / name)[:12]}.*make the model"):
        load_tiny(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}: cannot be read"):
        load_tiny(tmp_path)


def test_nothing_is_unpickled(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for place in (torch, pickle):
        monkeypatch.setattr(place, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    assert len(load_tiny()[2]) == 400


def test_a_directory_without_checksums_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"checksums\.json: cannot be read"):
        load_tiny(tmp_path)


def test_held_out_pairs_are_in_no_training_pair(tiny):
    pairs, held_out = split(0, train.HELD_OUT)
    assert len(pairs) + len(held_out) == 90 * 89 // 2 and not set(pairs) & set(held_out)
    asked = []
    for problem in tiny[2]:
        head = problem.answer.split("\n")[0]
        numbers = sorted(map(int, head.replace("-", "+").split("+")), reverse=True)
        asked.append(tuple(numbers))
    assert asked == held_out


@pytest.mark.parametrize(
    ("a", "b", "add", "text"),
    [
        (37, 48, True, "37+48\n7+8=15\n3+4+1=8\n#### 85"),
        (99, 99, True, "99+99\n9+9=18\n9+9+1=19\n#### 198"),
        (52, 25, False, "52-25\n12-5=7\n5-2-1=2\n#### 27"),
        (41, 32, False, "41-32\n11-2=9\n4-3-1=0\n#### 9"),
    ],
)
def test_worked_answers(a, b, add, text):
    assert worked(a, b, add) == text


def test_every_worked_line_is_true(tiny):
    for problem in tiny[2]:
        head, ones, tens, result = problem.answer.split("\n")
        for line in (ones, tens):
            left, right = line.split("=")
            assert eval(left) == int(right)
        assert eval(head) == int(problem.gold) == int(result.removeprefix("#### "))
        assert eval(head) == 10 * int(tens.split("=")[1]) + int(ones.split("=")[1]) % 10


def test_stories_name_both_numbers():
    draw = random.Random(0)
    told = {tell((83, 41), draw).question for _ in range(300)}
    assert all("83" in question and "41" in question for question in told)
    assert len(told) > 200 and len(MORE) == len(LESS) == 3


def test_the_script_trains_is_repeatable_and_its_seed_counts(tmp_path, capsys, monkeypatch):
    """Six steps of eight, not a model: the same bytes twice, others by another seed, and a loss that is printed."""
    monkeypatch.setattr(train, "BATCH", 8)
    monkeypatch.setattr(train, "HELD_OUT", 16)
    assert main(["--directory", str(tmp_path / "a"), "--steps", "6", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "step 6/6: loss" in out and " of 16 held-out problems solved" in out
    for name, seed in (("b", 0), ("c", 1)):
        train.make(tmp_path / name, seed=seed, steps=6)
    read = {name: (tmp_path / name / "weights.safetensors").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    model, _, problems = load_tiny(tmp_path / "a")
    assert isinstance(problems[0], Problem) and next(model.parameters()).dtype == torch.bfloat16
