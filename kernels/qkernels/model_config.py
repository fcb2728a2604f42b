"""From a model's config.json to the linear layers it multiplies by.

A linear layer is y[M, N] = x[M, K] @ w[K, N]. Projections that inference engines merge are merged here
(q, k and v into qkv; gate and up into gate_up), because the merged GEMM is the one that runs.
Shapes follow the `transformers` modelling code of each model_type. vLLM's benchmarks/kernels/weight_shapes.py
gives the same [K, N] and split dimension wherever both list a layer, but for DeepSeek-V2: its table has kv_b_proj
as [2048, 4096] and splits kv_a_proj; both codebases build kv_b_proj with K = kv_lora_rank = 512 and replicate kv_a.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd

Config = Mapping[str, object]


@dataclass(frozen=True)
class Layer:
    """One weight [K, N] and how tensor parallelism cuts it.

    split: "n" is column parallel (qkv, gate_up), "k" is row parallel (o, down), None is replicated on every rank.
    units: the pieces that must stay whole on a rank (KV-head groups of a qkv, channels of an ffn); 0 means that
    every element of the split dimension is one. A qkv of 10240 = 8 groups of 1280 has no 16-way cut, although 16
    divides 10240: beyond 8 ranks an engine replicates KV heads, and a rank's share is no longer N/tp.
    """

    name: str
    k: int
    n: int
    split: str | None
    units: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("k", "n", None):
            raise ValueError(f"layer {self.name}: split={self.split!r}; known: 'k', 'n', None (replicated)")

    @property
    def size(self) -> int:
        """The length of the dimension that is split (N for a replicated layer)."""
        return self.k if self.split == "k" else self.n

    def takes(self, tp: int) -> bool:
        """Whether `tp` ranks can share this layer evenly."""
        return self.split is None or (self.units or self.size) % tp == 0

    def shape(self, tp: int) -> tuple[int, int]:
        """(K, N) of one rank's share."""
        if not self.takes(tp):
            raise ValueError(f"tp={tp} does not divide layer {self.name}")
        return (self.k // tp if self.split == "k" else self.k, self.n // tp if self.split == "n" else self.n)


def layers(config: Config) -> tuple[Layer, ...]:
    """The distinct linear layers of one model, embeddings and lm_head aside.

    Raises ValueError for a model_type without a rule, and for a field that is missing or not a positive integer.
    """
    model_type = config.get("model_type")
    rule = _RULES.get(model_type) if isinstance(model_type, str) else None
    if rule is None:
        raise ValueError(f"unsupported model_type {model_type!r}; known: {', '.join(sorted(_RULES))}")
    return rule(config)


def _size(config: Config, *names: str) -> int:
    """The first of the fields that is present, which must be a positive integer."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"field {name!r} is {value!r}; expected a positive integer")
        return value
    raise ValueError(
        f"missing field {' or '.join(map(repr, names))} (model_type {config.get('model_type')!r})"
    )


def _attention(config: Config) -> tuple[Layer, Layer]:
    """qkv and o of grouped-query attention: heads x head_dim for q, kv_heads x head_dim each for k and v."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    model_type = config["model_type"]
    if config.get("num_key_value_heads") is None and model_type in ("llama", "cohere", "cohere2"):
        kv_heads = (
            heads  # what these classes assume; the others' own default is a number, so the field is required
        )
    else:
        kv_heads = _size(config, "num_key_value_heads")
    if config.get("head_dim") is None and model_type not in ("qwen3", "nemotron_h"):
        head_dim, rest = divmod(hidden, heads)
        if rest:
            raise ValueError(
                f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give head_dim"
            )
    else:
        head_dim = _size(config, "head_dim", "attention_head_dim")
    return (
        Layer("qkv", hidden, (heads + 2 * kv_heads) * head_dim, "n", gcd(heads, kv_heads)),
        Layer("o", heads * head_dim, hidden, "k", heads),
    )


def _gated(config: Config, ffn: int, prefix: str = "") -> tuple[Layer, Layer]:
    hidden = _size(config, "hidden_size")
    return Layer(f"{prefix}gate_up", hidden, 2 * ffn, "n", ffn), Layer(f"{prefix}down", ffn, hidden, "k", ffn)


def _dense(config: Config) -> tuple[Layer, ...]:
    return (*_attention(config), *_gated(config, _size(config, "intermediate_size")))


def _deepseek_v2(config: Config) -> tuple[Layer, ...]:
    """Multi-head latent attention; the first layers have a dense ffn, the others routed and shared experts."""
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    nope, rope = _size(config, "qk_nope_head_dim"), _size(config, "qk_rope_head_dim")
    value, latent = _size(config, "v_head_dim"), _size(config, "kv_lora_rank")
    q_width = heads * (nope + rope)
    made: list[Layer] = []
    if config.get("q_lora_rank") is None:
        made.append(Layer("q", hidden, q_width, "n", heads))
    else:
        rank = _size(config, "q_lora_rank")
        made += [Layer("q_a", hidden, rank, None), Layer("q_b", rank, q_width, "n", heads)]
    made += [
        Layer("kv_a", hidden, latent + rope, None),
        Layer("kv_b", latent, heads * (nope + value), "n", heads),
        Layer("o", heads * value, hidden, "k", heads),
    ]
    experts = config.get("n_routed_experts") is not None
    if not experts or config.get("first_k_dense_replace") != 0:
        made += _gated(config, _size(config, "intermediate_size"))
    if experts:
        ffn = _size(config, "moe_intermediate_size")
        made += _gated(config, ffn, "expert_")
        if config.get("n_shared_experts") is not None:
            made += _gated(config, ffn * _size(config, "n_shared_experts"), "shared_")
    return tuple(made)


def _nemotron_h(config: Config) -> tuple[Layer, ...]:
    """Hybrid of Mamba-2 ("M"), attention ("*") and squared-ReLU mlp ("-") blocks; the mlp has no gate.

    A Mamba-2 in_proj makes z and x (heads x head_dim each), B and C (groups x state each) and dt (heads).
    """
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or not pattern or set(pattern) - set("M*-"):
        raise ValueError(
            f"field 'hybrid_override_pattern' is {pattern!r}; known blocks: M (mamba), * (attention), - (mlp)"
        )
    hidden = _size(config, "hidden_size")
    made: list[Layer] = []
    if "M" in pattern:
        heads, groups = _size(config, "mamba_num_heads"), _size(config, "n_groups")
        inner = heads * _size(config, "mamba_head_dim")
        width = 2 * inner + 2 * groups * _size(config, "ssm_state_size") + heads
        made += [
            Layer("in_proj", hidden, width, "n", gcd(heads, groups)),
            Layer("out_proj", inner, hidden, "k", heads),
        ]
    if "*" in pattern:
        made += _attention(config)
    if "-" in pattern:
        ffn = _size(config, "intermediate_size")
        made += [Layer("up", hidden, ffn, "n", ffn), Layer("down", ffn, hidden, "k", ffn)]
    return tuple(made)


_RULES: dict[str, Callable[[Config], tuple[Layer, ...]]] = {
    "cohere": _dense,
    "cohere2": _dense,
    "deepseek_v2": _deepseek_v2,
    "llama": _dense,
    "mistral": _dense,
    "nemotron_h": _nemotron_h,
    "qwen2": _dense,
    "qwen3": _dense,
}
