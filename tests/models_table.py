"""README's table of whole models, from a stored run: `python -m tests.models_table tests/data/h200_models`.

A row for each model and recipe: tokens/s of decoding and how many times bf16's that is, for each batch size; for one
text the share of the roofline, joules a token, peak memory in GiB and milliseconds to the first token; and how many of
the tiny model's problems were solved. All of it, and plots: `python -m qbench compare FOLDER/*.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from qbench.model.accuracy import read_accuracy
from qbench.result import Result, read_run

BASELINE = "bf16"


def table(folder: Path) -> str:
    """Markdown; ValueError where the run holds no whole models."""
    results = read_run(folder / "results.json").results
    found = {(r.op, r.axes["model"], r.axes["batch"], r.provider): r for r in results if "model" in r.axes}
    if not found:
        raise ValueError(f"{folder / 'results.json'} holds no whole models")
    solved = {path.stem.removeprefix("accuracy-"): path for path in folder.glob("accuracy-*.json")}
    models = list(dict.fromkeys(str(r.axes["model"]) for r in results))
    recipes = list(dict.fromkeys((str(r.axes["model"]), r.provider) for r in results))
    batches = sorted({int(r.axes["batch"]) for r in results})
    lines = [
        "| | " + " | ".join(f"batch {batch}" for batch in batches)
        + " | roofline | J/token | GiB | first token | solved |",
        "| --- |" + " --- |" * (len(batches) + 5),
    ]  # fmt: skip
    for model, recipe in recipes:
        name = f"{model}, {recipe}" if len(models) > 1 and recipe == BASELINE else recipe
        rates = [
            rate(
                found.get(("model_decode", model, batch, recipe)),
                found.get(("model_decode", model, batch, BASELINE)),
            )
            for batch in batches
        ]
        one, prompt = (found.get((op, model, batches[0], recipe)) for op in ("model_decode", "model_prefill"))
        right = read_accuracy(solved[recipe]).correct if recipe in solved else ()
        more = [
            figure(one, "roofline_percent", "{:.0f}%"),
            figure(one, "joules_per_token", "{:.2f}"),
            figure(one, "peak_gib", "{:.1f}"),
            figure(prompt, "ttft_ms", "{:.1f} ms"),
            f"{sum(right)} of {len(right)}" if right else "",
        ]
        lines.append(f"| {name} | {' | '.join([*rates, *more])} |")
    return "\n".join(lines) + "\n"


def rate(result: Result | None, baseline: Result | None) -> str:
    """ "434 (2.07×)"; a case that has no figure by its status."""
    if result is None:
        return ""
    if result.status != "ok":
        return result.status
    mine = result.figures["tokens_per_s"]
    if baseline is None or baseline is result or baseline.status != "ok":
        return f"{mine:.0f}"
    return f"{mine:.0f} ({mine / baseline.figures['tokens_per_s']:.2f}×)"


def figure(result: Result | None, name: str, form: str) -> str:
    return form.format(result.figures[name]) if result and name in result.figures else ""


if __name__ == "__main__":
    print(table(Path(sys.argv[1])), end="")
