"""python -m qbench.model.tiny: train the tiny model, write it, and say how many held-out problems it solves."""

from __future__ import annotations

import argparse
from pathlib import Path

from qbench.model.tiny.load import HERE, NEW


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m qbench.model.tiny", description=__doc__)
    parser.add_argument(
        "--directory", type=Path, default=HERE, help="where to write (default: in the package)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, default=None, help="default: 1200, some seven minutes of one core"
    )
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)

    import torch

    from qbench.model.accuracy.decode import exact_match
    from qbench.model.tiny import train
    from qbench.model.tiny.load import load_tiny

    torch.set_num_threads(asked.threads)
    steps = train.STEPS if asked.steps is None else asked.steps
    train.make(asked.directory, seed=asked.seed, steps=steps, say=print)
    model, tokenizer, problems = load_tiny(asked.directory)
    answers = exact_match(model, tokenizer, problems, new=NEW)
    print(f"{sum(answers.correct)} of {len(problems)} held-out problems solved, in bfloat16 as stored")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
