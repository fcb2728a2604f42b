"""Whole models: of a published shape with random weights made on the device, or read from a local folder.

Nothing is downloaded. A random model has the sizes, the layers and the traffic of the real one, so its speed is that of
the real one; its text is noise. transformers is imported here only, when one of these is called.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .shapes import CONFIGS

_LLAMA_3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B": {**CONFIGS["meta-llama/Llama-3.1-8B"], **_LLAMA_3, "num_hidden_layers": 32},
    "meta-llama/Llama-3.3-70B-Instruct": {
        **CONFIGS["meta-llama/Llama-3.3-70B-Instruct"],
        **_LLAMA_3,
        "num_hidden_layers": 80,
    },
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": {
        **CONFIGS["nvidia/NVIDIA-Nemotron-Nano-9B-v2"],
        "vocab_size": 131072,
        "max_position_embeddings": 131072,
        "conv_kernel": 4,
        "chunk_size": 128,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    "tiny-llama": {
        "model_type": "llama",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "vocab_size": 256,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
    "tiny-nemotron-h": {
        "model_type": "nemotron_h",
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "hybrid_override_pattern": "M-M*-",
        "mamba_num_heads": 16,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 16,
        "chunk_size": 16,
        "vocab_size": 256,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
}
"""Fields of config.json by the model's name. The two tiny ones are for tests: K and N are multiples of 32."""


def build(
    preset: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    layers: int | None = None,
    seed: int = 0,
) -> Any:
    """A transformers causal LM of that shape, with random weights, in eval mode.

    preset   a name of PRESETS, or its part after the slash, in any letter case ("llama-3.1-8b")
    device   where its weights are made; on "meta" they are shapes alone
    layers   the first so many of its layers: one layer of 70B fits where 80 do not
    seed     the same seed, device type and dtype give the same weights, of a layer whatever `layers` is
    ValueError for an unknown preset or number of layers, ImportError that says what to install.
    """
    config = _config(preset, layers)
    target = torch.device(device)
    transformers = _transformers()
    settings = dict(config)
    made = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    cuda = [target] if target.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        target,
    ):  # tensors are made on the target: 16 GB never lie on the CPU
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=dtype)
    _randomise(model, seed, tied=bool(settings.get("tie_word_embeddings")))
    return model.eval().requires_grad_(False)


def load(path: str | Path, *, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
    """The causal LM of a local folder (config.json and safetensors), in eval mode on the device; dtype: the file's.

    Saved with QKernelsConfig, or in NVFP4 or MXFP4 by compressed-tensors, its layers are CodesLinear: `swap` makes them
    fast. FileNotFoundError for no such folder.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no model at {folder}: give a local folder with config.json; nothing is downloaded"
        )
    transformers = _transformers()
    from . import checkpoint, hf

    assert (
        hf.METHOD
    )  # importing it is what transformers needs, to know models saved with this package's quantizer
    if checkpoint.is_compressed(folder):
        return checkpoint.load_compressed(folder, device=device, dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto" if dtype is None else dtype, local_files_only=True
    )
    return model.to(device).eval().requires_grad_(False)


def _config(preset: str, layers: int | None) -> dict[str, Any]:
    wanted = preset.strip().lower()
    found = [key for key in PRESETS if wanted in (key.lower(), key.lower().partition("/")[2])]
    if not found:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    config = dict(PRESETS[found[0]])
    pattern = config.get("hybrid_override_pattern")
    most = len(pattern) if pattern else config["num_hidden_layers"]
    if layers is not None:
        if not 1 <= layers <= most:
            raise ValueError(f"layers = {layers}: {found[0]} has 1 to {most}")
        config.update(
            {"hybrid_override_pattern": pattern[:layers]} if pattern else {"num_hidden_layers": layers}
        )
    return config


@torch.no_grad()
def _randomise(model: nn.Module, seed: int, *, tied: bool) -> None:
    """Linear weights of variance 1/K, which keeps activations near 1 at every depth; embeddings of variance 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
            unit = isinstance(module, nn.Embedding) and not tied
            weight = module.weight
            text = f"{seed}/{name}".encode()
            number = int.from_bytes(hashlib.sha256(text).digest()[:7], "little")
            generator = torch.Generator(weight.device).manual_seed(number)
            weight.normal_(0.0, 1.0 if unit else weight.shape[1] ** -0.5, generator=generator)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("whole models need transformers; pip install pytest-qbench[models]") from error
    return transformers
