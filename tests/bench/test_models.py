"""Whole models: reading a prompt and decoding a fixed number of tokens, by every recipe asked for (--recipes)."""

from importlib.util import find_spec

import qbench
from qbench.model import Variant
from qbench.model import cases as whole_cases
from qkernels import models
from tests.bench.sweep import whole_model

WHOLE_MODELS = True
ACCUMULATORS = {"fp8": "fp8-fast", "int8": "int32"}  # whose matrix rates a prefill is compared with


def variant(name):
    recipe = models.get_recipe(name)

    def available(device):
        if find_spec("transformers") is None:
            raise qbench.Unsupported(
                "import: transformers is not installed; pip install pytest-qbench[models]"
            )
        # a process of its own where a kernel may be one that this GPU cannot run
        found = models.probe(recipe, device) if device.type == "cuda" else models.support(recipe, device)
        if not found.ok:
            raise qbench.Unsupported(f"{found.code}: {found.reason}", found.instead)

    def apply(model):
        report = models.swap(model, recipe)
        return {"mode": report.mode, "backend": report.backend}

    return Variant(name, apply, available, ACCUMULATORS.get(name, "fp32"))


def cases(sweep):
    if sweep.tiny_model:
        recipes, batches, prompts, new = ("bf16", "nvfp4-w4a16"), (2,), (8,), 3
        built = dict([whole_model("tiny-llama", 1)])
    else:
        recipes = sweep.recipes
        names = sweep.models or ("Llama-3.1-8B",) if recipes else ()
        built = dict(whole_model(name, sweep.layer_count) for name in names)
        batches, prompts, new = sweep.batch_sizes or (1,), sweep.prompts or (128,), sweep.new_tokens or 64
    return whole_cases(built, [variant(name) for name in recipes], batches=batches, prompts=prompts, new=new)


def test_models(case, qbench):
    qbench(case)
