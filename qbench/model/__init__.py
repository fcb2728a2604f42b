"""Whole models: how fast they run, and how right they stay.

    cases(models={"tiny": build}, recipes=[Variant("bf16", lambda model: None)], batches=[1], prompts=[32], new=16)

Knows no quantization: a recipe is a function that changes a model. transformers is imported when a cache is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.later import later

if TYPE_CHECKING:
    from qbench.model.decode import Decoder
    from qbench.model.graph import NotOneGraph
    from qbench.model.suite import cases, ops
    from qbench.model.trial import Variant

__all__ = ["Decoder", "NotOneGraph", "Variant", "cases", "ops"]

_HOMES = {
    "Decoder": "qbench.model.decode",
    "NotOneGraph": "qbench.model.graph",
    "Variant": "qbench.model.trial",
    "cases": "qbench.model.suite",
    "ops": "qbench.model.suite",
}

__getattr__ = later(__name__, _HOMES)
