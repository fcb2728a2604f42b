"""The tiny model through the kernels of a GPU, in bfloat16, answers as through the reference on a CPU, in float32.

Problem by problem, within what rounding to bfloat16 alone turns: the reference itself was run in bfloat16 on a CPU and
DIFFERED on so many of the 400 problems from its run in float32 (torch 2.13). Under the hypothesis that the GPU differs
no more often than that, of all problems on which either differs those of the GPU are Binomial(n, 1/2) at most; and of
those, as many are lost as gained (McNemar). Either is refuted at 1 in 1000.
"""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed; pip install pytest-qbench[models]")

from qbench.model.accuracy.mcnemar import exact_p, tail
from qkernels import models
from qkernels.models.accuracy import accuracies, tiny

DIFFERED = {
    "bf16": 0,
    "fp8": 0,
    "int8": 0,
    "nvfp4-w4a16": 0,
    "nvfp4-w4a4": 2,
    "mxfp4-w4a16": 0,
    "mxfp4-w4a4": 16,
    "nemotron-nano": 1,
}
REFUTED = 1e-3


def difference(reference, found, noise):
    """What is wrong with the problems solved, or None."""
    lost = sum(a and not b for a, b in zip(reference, found, strict=True))
    gained = sum(b and not a for a, b in zip(reference, found, strict=True))
    said = f"{lost} problems lost and {gained} gained of {len(reference)}, where rounding alone turns {noise}"
    if tail(lost + gained + noise, noise) < REFUTED:
        return f"more than rounding: {said}"
    return f"all to one side: {said}" if exact_p(lost, gained) < REFUTED else None


def test_every_recipe_has_its_noise():
    assert set(DIFFERED) == set(models.RECIPES)


@pytest.mark.parametrize(
    ("lost", "gained", "noise", "words"),
    [
        (0, 0, 0, None),
        (5, 4, 0, None),
        (5, 5, 0, "more than rounding"),
        (17, 17, 16, None),
        (24, 24, 16, "more than rounding"),
        (17, 2, 16, "all to one side"),
    ],
)
def test_what_is_more_than_rounding_and_what_is_not(lost, gained, noise, words):
    reference = (True,) * 50 + (False,) * 50
    found = (False,) * lost + (True,) * (50 - lost + gained) + (False,) * (50 - gained)
    said = difference(reference, found, noise)
    assert said is None if words is None else words in said


@pytest.mark.gpu
@pytest.mark.parametrize("name", models.RECIPES)
def test_the_kernels_answer_as_the_reference_does(name):
    recipe = models.get_recipe(name)
    ((_, reference),) = accuracies(tiny("cpu"), [recipe], "cpu")
    ((_, found),) = accuracies(tiny("cuda"), [recipe], "cuda")
    if isinstance(found, models.Support):
        pytest.skip(f"{found.code}: {found.reason}")
    assert found.labels["mode"] != "emulated", "this GPU has no kernel for it"
    assert found.digest == reference.digest
    problem = difference(reference.correct, found.correct, DIFFERED[name])
    print(name, found.labels, reference.score, found.score)
    assert problem is None, problem


def test_the_same_device_twice_is_the_same_answers():
    """And the reference is deterministic: what differs is the other device's."""
    first, second = (
        next(accuracies(tiny("cpu", count=8), [models.get_recipe("mxfp4-w4a4")], "cpu"))[1] for _ in range(2)
    )
    assert first.correct == second.correct and first.figures == second.figures
    assert torch.tensor(first.correct).any()
