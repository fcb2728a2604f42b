"""Metrics kept between runs, so that what has not changed is not compiled again.

One small file for each launch under $QBENCH_COMPILE_CACHE, or ~/.cache/qbench/compile. The key is a hash of all that
decides them: the versions of Triton and of this analysis, the target, the source of the kernel and of all it calls,
how it was specialized, the options, the integers it was given, the grid, and Triton's environment variables. A file
that cannot be read is as good as none. Files unused for a month are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from qbench.aot.launch import Launch
from qbench.aot.metrics import Metrics

_KEPT_S = 30 * 24 * 3600
_WIDTHS = ("global_loads", "global_stores", "shared_loads", "shared_stores")
_ENVIRONMENT = (
    "TRITON_PTXAS",
    "TRITON_NVDISASM",
    "TRITON_CUOBJDUMP",
    "TRITON_OVERRIDE_ARCH",
    "PTXAS_OPTIONS",
)


def folder() -> Path:
    """Where metrics are kept."""
    named = os.environ.get("QBENCH_COMPILE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "qbench" / "compile"


def compile_key(launch: Launch) -> str:
    """What decides the machine code."""
    import triton
    from triton._C.libtriton import get_cache_invalidating_env_vars

    made = launch.compilation
    environment = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
    parts = (
        triton.__version__,
        analysis(),
        launch.target.name,
        made.ast_source.__name__,
        launch.source,
        _plain(made.signature),
        _plain(made.constexprs),
        _plain(made.attrs),
        _plain(launch.options),
        _libraries(made.options),
        _plain(get_cache_invalidating_env_vars()),
        _plain(environment),
    )
    return _hash(parts)


def metrics_key(launch: Launch) -> str:
    """What decides the metrics."""
    values = [argument.value for argument in launch.arguments if argument.type != "constexpr"]
    return _hash((compile_key(launch), values, launch.grid))


def load(key: str) -> Metrics | None:
    path = folder() / f"{key}.json"
    try:
        metrics = metrics_from_json(json.loads(path.read_bytes()))
        if time.time() - path.stat().st_mtime > _KEPT_S / 30:
            os.utime(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return metrics


def save(key: str, metrics: Metrics) -> None:
    """Atomically; a folder that cannot be written to is no reason to fail."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder(), prefix=".")
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(metrics), file)
        os.replace(name, folder() / f"{key}.json")
    except OSError:
        return


def prune() -> None:
    """Remove what was not used for a month."""
    try:
        for path in folder().iterdir():
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink(missing_ok=True)
    except OSError:
        return


def metrics_from_json(read: Mapping[str, Any]) -> Metrics:
    """The inverse of asdict through JSON, whose keys are all text. ValueError for what is no Metrics."""
    names = {each.name for each in fields(Metrics)}
    if set(read) != names:
        raise ValueError(f"fields {sorted(set(read) ^ names)} are missing or unknown")
    counts = {name: {int(width): int(count) for width, count in read[name].items()} for name in _WIDTHS}
    lists = {name: tuple(read[name]) for name in ("divisible", "overwritten", "reused")}
    return Metrics(**{**read, **counts, **lists})


@cache
def analysis() -> str:
    """Version of the analysis: a hash of its own source."""
    here = Path(__file__).parent
    return _hash([path.read_text() for path in sorted(here.glob("*.py"))])


def _plain(value: Any) -> Any:
    """In types of JSON, without addresses: a kernel by the hash of its source."""
    if isinstance(value, Mapping):
        return sorted((str(_plain(key)), _plain(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "cache_key"):
        return value.cache_key
    if hasattr(value, "value") and type(value).__name__ == "constexpr":
        return _plain(value.value)
    return f"{type(value).__name__} {value}"


def _libraries(options: Any) -> list[str]:
    return [Path(path).name for _, path in getattr(options, "extern_libs", None) or ()]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
