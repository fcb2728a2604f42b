"""This repository's own pytest setup: hypothesis profiles, the gpu marker, interpreted Triton without a GPU."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:  # before triton is imported: the interpreter is chosen when a kernel is decorated
    os.environ.setdefault("TRITON_INTERPRET", "1")

os.environ.pop(
    "PYTEST_XDIST_WORKER", None
)  # tests start pytest, which would not time in what it takes for a worker

pytest_plugins = ["pytester", "tests.bench.sweep"]

settings.register_profile("dev", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("dev"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """-n auto: one process where there is a GPU, for tests time on it and compile for it."""
    return 0 if HAS_GPU else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none")
    for item in items:
        if not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(skip)
