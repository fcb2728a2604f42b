"""python -m qkernels.models: accuracy of recipes as files that `qbench compare` reads, and what each layer costs."""

import dataclasses
import json

import msgspec
import pytest

pytest.importorskip("transformers", reason="transformers is not installed; pip install pytest-qbench[models]")

from qbench import turns
from qbench.__main__ import main as qbench_main
from qbench.model.accuracy import read_accuracy, write_accuracy
from qbench.model.tiny import load_tiny
from qkernels import models
from qkernels.models import __main__ as commands
from qkernels.models import accuracy as asking
from qkernels.models import sensitivity
from qkernels.models.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What twelve problems give under three recipes, and the problems as a file of their own."""
    folder = tmp_path_factory.mktemp("accuracy")
    recipes = ["bf16", "nvfp4-w4a16", "mxfp4-w4a4"]
    assert (
        main(["accuracy", "--device", "cpu", "--count", "12", "--recipes", *recipes, "-o", str(folder)]) == 0
    )
    return folder


def test_each_recipe_is_a_file_with_its_problems_its_kl_and_how_it_ran(folder):
    plain, weights, both = (
        read_accuracy(folder / f"accuracy-{name}.json") for name in ("bf16", "nvfp4-w4a16", "mxfp4-w4a4")
    )
    assert all(len(each.correct) == 12 and each.digest == plain.digest for each in (weights, both))
    assert plain.score == 1.0 and plain.figures["kl_nats"] == 0
    assert 0 < weights.figures["kl_nats"] < both.figures["kl_nats"] < 0.1
    assert [each.labels["mode"] for each in (plain, weights, both)] == ["none", "emulated", "emulated"]
    assert both.labels["dtype"] == "float32" and both.device.kind == "cpu"


def test_others_that_time_are_waited_for_recipe_by_recipe_and_layers_are_timed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_file", lambda device: tmp_path / "gpu.lock")
    seen, measured, found = [], asking.divergence_from, commands.write_accuracy
    monkeypatch.setattr(
        asking,
        "divergence_from",
        lambda *given: (seen.append(list(turns._held.values())), measured(*given))[1],
    )
    monkeypatch.setattr(
        commands, "write_accuracy", lambda *given: (seen.append(list(turns._held.values())), found(*given))[1]
    )
    arguments = ["--device", "cpu", "--count", "1", "-o", str(tmp_path)]
    assert main(["accuracy", *arguments, "--recipes", "bf16", "fp8"]) == 0
    assert seen == [[False], [], [False], []]
    seen.clear()
    monkeypatch.setattr(
        sensitivity,
        "divergence_from",
        lambda *given: (seen.append(list(turns._held.values())), measured(*given))[1],
    )
    assert main(["layers", *arguments, "--recipe", "fp8"]) == 0
    assert seen and all(held == [True] for held in seen) and not turns._held


def test_compare_reads_them(folder, capsys):
    assert qbench_main(["compare", *map(str, sorted(folder.glob("*.json")))]) == 0
    said = capsys.readouterr().out
    assert "two-digit arithmetic" in said and "mxfp4-w4a4" in said


def test_a_recipe_that_cannot_run_is_na_with_its_reason_and_the_others_are_measured(
    tmp_path, monkeypatch, capsys
):
    refusal = models.Support(False, "capability", "made of paper", "int8")
    known = asking.support
    monkeypatch.setattr(
        asking, "support", lambda recipe, device: refusal if recipe.name == "fp8" else known(recipe, device)
    )
    arguments = ["--device", "cpu", "--count", "2", "--recipes", "fp8", "int8", "-o", str(tmp_path)]
    assert main(["accuracy", *arguments]) == 0
    assert "fp8: n/a, capability: made of paper; next best: int8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.json")] == ["accuracy-int8.json"]


def test_a_folders_model_is_asked_the_problems_of_a_file(tmp_path, folder):
    model, tokenizer, problems = load_tiny(dtype="float32")
    model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    asked = tmp_path / "sums.jsonl"
    asked.write_bytes(b"\n".join(map(msgspec.json.encode, problems[:12])))
    arguments = [
        "--model",
        str(tmp_path / "mine"),
        "--problems",
        str(asked),
        "--device",
        "cpu",
        "--new",
        "40",
    ]
    assert main(["accuracy", *arguments, "--recipes", "mxfp4-w4a4", "-o", str(tmp_path)]) == 0
    found, tiny = (read_accuracy(each / "accuracy-mxfp4-w4a4.json") for each in (tmp_path, folder))
    assert (found.model, found.task) == ("mine", "sums")
    assert (found.correct, found.digest) == (tiny.correct, tiny.digest)
    assert found.figures["kl_nats"] == pytest.approx(tiny.figures["kl_nats"], rel=1e-6)


def test_against_a_stored_run_a_loss_is_an_exit_code_and_other_problems_are_refused(folder, tmp_path, capsys):
    def run(*more):
        arguments = ["--device", "cpu", "--count", "12", "--recipes", "bf16", *more]
        return main(["accuracy", *arguments, "-o", str(tmp_path / "now")])

    assert run("--against", str(folder)) == 0
    assert "0 problems differ" in capsys.readouterr().out
    assert run("--against", str(tmp_path)) == 2
    assert "no accuracy-RECIPE.json of bf16 there" in capsys.readouterr().err
    assert run("--against", str(folder), "--count", "6") == 2
    assert "6 problems cannot prove a loss above --margin 0.02" in capsys.readouterr().err
    stored = read_accuracy(folder / "accuracy-bf16.json")
    write_accuracy(tmp_path / "accuracy-bf16.json", msgspec.structs.replace(stored, digest="0" * 64))
    assert run("--against", str(tmp_path)) == 2
    assert "was asked other problems" in capsys.readouterr().err


def test_a_stored_recipe_that_can_no_longer_run_is_lost(folder, tmp_path, monkeypatch, capsys):
    refusal = models.Support(False, "import", "made of paper")
    monkeypatch.setattr(asking, "support", lambda recipe, device: refusal)
    arguments = ["--device", "cpu", "--count", "12", "--recipes", "bf16", "-o", str(tmp_path)]
    assert main(["accuracy", *arguments, "--against", str(folder)]) == 1
    assert "bf16: stored in" in capsys.readouterr().out


def test_a_recipe_that_loses_problems_is_worse(folder, tmp_path, monkeypatch, capsys):
    def hopeless(*args, **options):
        return msgspec.structs.replace(measure(*args, **options), correct=(False,) * 12)

    measure = asking.measure
    monkeypatch.setattr(asking, "measure", hopeless)
    arguments = ["--device", "cpu", "--count", "12", "--recipes", "bf16", "-o", str(tmp_path)]
    assert main(["accuracy", *arguments, "--against", str(folder)]) == 1
    assert "bf16: worse: 0.000 against 1.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipes", "nvfp4_w4a16"], "unknown recipe 'nvfp4_w4a16' (did you mean 'nvfp4-w4a16'?)"),
        (["--model", "somewhere"], "give --problems FILE.jsonl"),
        (["--text", "words.txt"], "--model tiny has problems of its own"),
        (["--new", "5"], "--model tiny has problems of its own"),
        (
            ["--model", "nowhere", "--problems", "{asked}"],
            "no model at nowhere: give a local folder with config.json",
        ),
        (["--model", "nowhere", "--problems", "not there"], "not there: cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_one_error_with_the_remedy(arguments, words, tmp_path, capsys):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}))
    arguments = [each.format(asked=asked) for each in arguments]
    assert main(["accuracy", "--device", "cpu", "-o", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_layers_are_ranked_by_what_they_cost_and_a_skip_list_follows(tmp_path, capsys):
    arguments = [
        "--device",
        "cpu",
        "--count",
        "2",
        "--recipe",
        "mxfp4-w4a4",
        "--share",
        "0.4",
        "-o",
        str(tmp_path),
    ]
    assert main(["layers", *arguments]) == 0
    said = capsys.readouterr().out
    table = (tmp_path / "layers-mxfp4-w4a4.txt").read_text()
    assert table in said
    first = table.splitlines()[1].split()[0]
    skipped = said.split("skip=(")[1].split(")")[0].replace("'", "").split(", ")
    assert skipped[0] == first and 1 <= len(skipped) < 14
    assert (tmp_path / "layers-mxfp4-w4a4.png").read_bytes().startswith(b"\x89PNG")
    recipe = dataclasses.replace(models.get_recipe("mxfp4-w4a4"), skip=("lm_head", *skipped))
    report = models.swap(load_tiny(dtype="float32")[0], recipe)
    assert {layer.name for layer in report.layers if layer.skipped} >= set(skipped)
