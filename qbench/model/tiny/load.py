"""The stored tiny model: checksums first, then safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from qbench.model.accuracy.problems import Problem, read_problems
from qbench.result import DataError

HERE = Path(__file__).parent
CHECKSUMS = "checksums.json"
FILES = ("weights.safetensors", "config.json", "tokenizer.json", "problems.jsonl")
NEW = 40
"""Tokens that an answer needs at most, its end included: for exact_match(..., new=NEW)."""

_REMEDY = "install the package again, or make the model with python -m qbench.model.tiny"


def load_tiny(
    directory: Path | None = None, *, device: str = "cpu", dtype: str = "bfloat16"
) -> tuple[Any, Any, tuple[Problem, ...]]:
    """(model, tokenizer, held-out problems) from a directory that `python -m qbench.model.tiny` wrote; the stored one.

    model: transformers' LlamaForCausalLM in eval mode; dtype "bfloat16" (as stored) or "float32".
    DataError names the file that is missing or is not what was stored. Needs the extra `models`.
    """
    directory = HERE if directory is None else directory
    verify(directory)
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_dict(msgspec.json.decode((directory / "config.json").read_bytes()))
    model: Any = LlamaForCausalLM(config)
    model.train(False)
    found = model.load_state_dict(load_file(directory / "weights.safetensors"), strict=False)
    if found.unexpected_keys or found.missing_keys != ["lm_head.weight"]:  # tied to the embedding
        raise DataError(f"{directory}: weights and config.json disagree: {found}; {_REMEDY}")
    model.tie_weights()
    model.to(device=device, dtype=getattr(torch, dtype))
    return model, load_tokenizer(directory), read_problems(directory / "problems.jsonl")


def load_tokenizer(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), eos_token="<end>", pad_token="<end>"
    )


def verify(directory: Path) -> None:
    """Compare every file with the checksums beside it. DataError for the first that is missing or differs."""
    try:
        stored = msgspec.json.decode((directory / CHECKSUMS).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{directory / CHECKSUMS}: cannot be read ({error}); {_REMEDY}") from error
    for name in FILES:
        try:
            found = sha256(directory / name)
        except OSError as error:
            raise DataError(f"{directory / name}: cannot be read ({error.strerror}); {_REMEDY}") from error
        if found != stored.get(name):
            raise DataError(
                f"{directory / name}: SHA-256 is {found[:12]}…, stored is {stored.get(name, 'none')[:12]}…; {_REMEDY}"
            )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
