"""The models whose layer shapes are swept: config.json facts, and the GEMM workloads they make.

Each entry holds the published config.json fields that decide its shapes, under the names they have there; the
[K, N] are derived by the rule that also reads a user's own file. A wrong number is thus a visible fact, not a
product nobody can check. lm_head and embeddings are left out: quantization recipes keep them in bf16.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbench import Workload
from qkernels.model_config import Config, Layer, layers

DEFAULT_BATCH_SIZES = (1, 16, 128, 1024)
FULL_BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 24576, 32768)
AxisValue = int | float | str | bool
_TP_LIMIT = 64  # the largest tp that an error message offers


@dataclass(frozen=True)
class Model:
    """A model's distinct linear layers, and where its numbers come from.

    Iterating gives the GEMM workloads (axes m, n, k) of the default batch sizes on one GPU.
    """

    name: str
    source: str
    layers: tuple[Layer, ...]

    def __iter__(self) -> Iterator[Workload]:
        return iter(self.workloads())

    def workloads(
        self, batch_sizes: Iterable[int] = DEFAULT_BATCH_SIZES, tp: int = 1, **extra_axes: AxisValue
    ) -> list[Workload]:
        """One workload per layer shape and batch size, with axes m, n, k and then the extra ones.

        tp cuts every layer's split dimension as one rank of tensor parallelism sees it. Layers that share a
        shape share a workload, so that no case is measured twice.
        Raises ValueError for a tp that some layer cannot be cut by, and for a batch size or tp below 1.
        """
        sizes = list(batch_sizes)
        for label, value in [("tp", tp), *(("batch size", m) for m in sizes)]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{label} {value!r}: expected a whole number of at least 1")
        shapes = dict.fromkeys(self._shape(layer, tp) for layer in self.layers)
        return [Workload.of(0, m=m, n=n, k=k, **extra_axes) for k, n in shapes for m in sizes]

    def _shape(self, layer: Layer, tp: int) -> tuple[int, int]:
        if layer.takes(tp):
            return layer.shape(tp)
        pieces = f" in {layer.units} whole pieces" if 0 < layer.units < layer.size else ""
        works = [str(each) for each in range(1, _TP_LIMIT + 1) if all(one.takes(each) for one in self.layers)]
        where = f"layer {layer.name} of {self.name} ({layer.split}={layer.size}{pieces})"
        raise ValueError(f"tp={tp} does not divide {where}; tp sizes that work: {', '.join(works)}")


def sweep(
    models: Iterable[Model],
    batch_sizes: Iterable[int] = DEFAULT_BATCH_SIZES,
    tp_sizes: Iterable[int] = (1,),
    **extra_axes: AxisValue,
) -> list[Workload]:
    """The workloads of several models and tp sizes, each shape once."""
    sizes, ranks = list(batch_sizes), list(tp_sizes)
    made = (one for model in models for tp in ranks for one in model.workloads(sizes, tp, **extra_axes))
    return list(dict.fromkeys(made))


def get_model(name: str) -> Model:
    """The model of that full Hugging Face name, or of a part that only one model's name has, in any letter case.

    A part is one or more whole words between dashes: "Llama-3.3-70B", "command-a", "nemotron-nano-9b-v2".
    Raises ValueError that lists the candidates (ambiguous) or every known name (unknown).
    """
    wanted = name.strip().lower()
    full = {key.lower(): model for key, model in MODELS.items()}
    wanted = _ALIASES.get(wanted, wanted)
    if wanted in full:
        return full[wanted]
    short = [model for key, model in full.items() if key.partition("/")[2] == wanted]
    part = [model for key, model in full.items() if wanted and f"-{wanted}-" in f"-{key.partition('/')[2]}-"]
    found = short or part
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"model name {name!r} fits several: {', '.join(model.name for model in found)}")
    near = difflib.get_close_matches(wanted, full, n=1, cutoff=0.7)
    hint = f" (did you mean {full[near[0]].name}?)" if near else ""
    raise ValueError(f"unknown model {name!r}{hint}; known: {', '.join(MODELS)}")


def from_config(path: str | Path, name: str = "") -> Model:
    """The model of a local Hugging Face config.json, given the file or the folder that holds it.

    Its name is `name`, or the file's `_name_or_path`, or the folder's.
    Raises FileNotFoundError, and ValueError that names the file and what is wrong with it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"no model config at {file}; give a config.json or the folder that holds one")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a JSON {type(config).__name__}, not an object of config fields")
    try:
        derived = layers(config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return Model(name or str(config.get("_name_or_path") or file.resolve().parent.name), str(file), derived)


def _dense(model_type: str, hidden: int, heads: int, kv_heads: int, ffn: int, **more: Any) -> Config:
    """The fields of a dense grouped-query decoder, by their names in config.json."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        **more,
    }


_LLAMA_3_8B = _dense("llama", 4096, 32, 8, 14336)

CONFIGS: dict[str, Config] = {
    "meta-llama/Llama-2-7b-hf": _dense("llama", 4096, 32, 32, 11008),
    "meta-llama/Llama-2-13b-hf": _dense("llama", 5120, 40, 40, 13824),
    "meta-llama/Llama-2-70b-hf": _dense("llama", 8192, 64, 8, 28672),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B": _LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Llama-3.1-405B": _dense("llama", 16384, 128, 8, 53248),
    "meta-llama/Llama-3.3-70B-Instruct": _dense("llama", 8192, 64, 8, 28672),
    "mistralai/Mistral-7B-v0.1": _dense("mistral", 4096, 32, 8, 14336),
    "mistralai/Mistral-Large-Instruct-2407": _dense("mistral", 12288, 96, 8, 28672, head_dim=128),
    "Qwen/Qwen2.5-7B-Instruct": _dense("qwen2", 3584, 28, 4, 18944),
    "Qwen/Qwen2.5-32B-Instruct": _dense("qwen2", 5120, 40, 8, 27648),
    "Qwen/Qwen2.5-72B-Instruct": _dense("qwen2", 8192, 64, 8, 29568),
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": {
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "intermediate_size": 10944,
        "first_k_dense_replace": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "moe_intermediate_size": 1408,
    },
    "CohereLabs/c4ai-command-a-03-2025": _dense("cohere2", 12288, 96, 8, 36864, head_dim=128),
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": _dense(
        "nemotron_h",
        4480,
        40,
        8,
        15680,
        head_dim=128,
        hybrid_override_pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        mamba_num_heads=128,
        mamba_head_dim=80,
        n_groups=8,
        ssm_state_size=128,
    ),
}

# Names in use elsewhere (vLLM's weight_shapes.py has the Llama ones) that are no part of the published name.
_ALIASES = {
    "meta-llama/llama-3-8b": "meta-llama/meta-llama-3-8b",
    "llama-3-8b": "meta-llama/meta-llama-3-8b",
    "meta-llama/llama-3.1-405b-hf": "meta-llama/llama-3.1-405b",
    "llama-3.1-405b-hf": "meta-llama/llama-3.1-405b",
    "mistral-large-2407": "mistralai/mistral-large-instruct-2407",
}


def _published(name: str) -> Model:
    config = CONFIGS[name]
    fields = ", ".join(f"{key}={value}" for key, value in config.items())
    return Model(name, f"https://huggingface.co/{name}/blob/main/config.json ({fields})", layers(config))


MODELS: dict[str, Model] = {name: _published(name) for name in CONFIGS}

LLAMA_2_7B = MODELS["meta-llama/Llama-2-7b-hf"]
LLAMA_2_13B = MODELS["meta-llama/Llama-2-13b-hf"]
LLAMA_2_70B = MODELS["meta-llama/Llama-2-70b-hf"]
LLAMA_3_8B = MODELS["meta-llama/Meta-Llama-3-8B"]
LLAMA_3_1_8B = MODELS["meta-llama/Llama-3.1-8B"]
LLAMA_3_1_8B_INSTRUCT = MODELS["meta-llama/Llama-3.1-8B-Instruct"]
LLAMA_3_1_405B = MODELS["meta-llama/Llama-3.1-405B"]
LLAMA_3_3_70B = MODELS["meta-llama/Llama-3.3-70B-Instruct"]
MISTRAL_7B = MODELS["mistralai/Mistral-7B-v0.1"]
MISTRAL_LARGE_2407 = MODELS["mistralai/Mistral-Large-Instruct-2407"]
QWEN_2_5_7B = MODELS["Qwen/Qwen2.5-7B-Instruct"]
QWEN_2_5_32B = MODELS["Qwen/Qwen2.5-32B-Instruct"]
QWEN_2_5_72B = MODELS["Qwen/Qwen2.5-72B-Instruct"]
DEEPSEEK_CODER_V2_LITE = MODELS["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"]
COMMAND_A = MODELS["CohereLabs/c4ai-command-a-03-2025"]
NEMOTRON_NANO_9B_V2 = MODELS["nvidia/NVIDIA-Nemotron-Nano-9B-v2"]
