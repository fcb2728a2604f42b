"""Model shapes against an independent table, tensor parallelism, names, and a user's own config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qkernels import models
from qkernels.model_config import Layer
from qkernels.models import CONFIGS, MODELS, Model, from_config, get_model, sweep

# [K, N] and the split dimension, typed in and not derived, as vLLM's benchmarks/kernels/weight_shapes.py has them.
LLAMA_8B = [(4096, 6144, "n"), (4096, 4096, "k"), (4096, 28672, "n"), (14336, 4096, "k")]
LLAMA_70B = [(8192, 10240, "n"), (8192, 8192, "k"), (8192, 57344, "n"), (28672, 8192, "k")]
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": [(4096, 12288, "n"), (4096, 4096, "k"), (4096, 22016, "n"), (11008, 4096, "k")],
    "meta-llama/Llama-2-13b-hf": [(5120, 15360, "n"), (5120, 5120, "k"), (5120, 27648, "n"), (13824, 5120, "k")],
    "meta-llama/Llama-2-70b-hf": LLAMA_70B,
    "meta-llama/Meta-Llama-3-8B": LLAMA_8B,
    "meta-llama/Llama-3.1-8B": LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_8B,
    "meta-llama/Llama-3.1-405B": [
        (16384, 18432, "n"), (16384, 16384, "k"), (16384, 106496, "n"), (53248, 16384, "k"),
    ],
    "meta-llama/Llama-3.3-70B-Instruct": LLAMA_70B,
    "mistralai/Mistral-7B-v0.1": LLAMA_8B,
    "mistralai/Mistral-Large-Instruct-2407": [
        (12288, 14336, "n"), (12288, 12288, "k"), (12288, 57344, "n"), (28672, 12288, "k"),
    ],
    "Qwen/Qwen2.5-7B-Instruct": [(3584, 4608, "n"), (3584, 3584, "k"), (3584, 37888, "n"), (18944, 3584, "k")],
    "Qwen/Qwen2.5-32B-Instruct": [(5120, 7168, "n"), (5120, 5120, "k"), (5120, 55296, "n"), (27648, 5120, "k")],
    "Qwen/Qwen2.5-72B-Instruct": [(8192, 10240, "n"), (8192, 8192, "k"), (8192, 59136, "n"), (29568, 8192, "k")],
    "CohereLabs/c4ai-command-a-03-2025": [
        (12288, 14336, "n"), (12288, 12288, "k"), (12288, 73728, "n"), (36864, 12288, "k"),
    ],
    # q, kv_a, kv_b, o; then the dense, the routed and the shared ffn. kv_b as the modelling code builds it.
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": [
        (2048, 3072, "n"), (2048, 576, None), (512, 4096, "n"), (2048, 2048, "k"),
        (2048, 21888, "n"), (10944, 2048, "k"), (2048, 2816, "n"), (1408, 2048, "k"),
        (2048, 5632, "n"), (2816, 2048, "k"),
    ],
    # Mamba in and out, qkv, o, up, down.
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": [
        (4480, 22656, "n"), (10240, 4480, "k"), (4480, 7168, "n"), (5120, 4480, "k"),
        (4480, 15680, "n"), (15680, 4480, "k"),
    ],
}  # fmt: skip


def test_the_published_table_covers_every_model() -> None:
    assert set(PUBLISHED) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_derived_shapes_equal_the_published_ones(name: str) -> None:
    assert [(layer.k, layer.n, layer.split) for layer in MODELS[name].layers] == PUBLISHED[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_names_its_source_with_the_fields(name: str) -> None:
    source = MODELS[name].source
    assert name in source
    assert f"hidden_size={CONFIGS[name]['hidden_size']}" in source


def test_exported_constants_are_the_table() -> None:
    constants = {value.name for value in vars(models).values() if isinstance(value, Model)}
    assert constants == set(MODELS)


def test_iterating_a_model_gives_every_shape_at_every_default_batch_size() -> None:
    made = {(one["k"], one["n"], one["m"]) for one in models.LLAMA_3_3_70B}
    assert made == {(k, n, m) for k, n, _ in LLAMA_70B for m in models.DEFAULT_BATCH_SIZES}


def test_extra_axes_follow_m_n_k_in_the_id() -> None:
    first = models.LLAMA_3_3_70B.workloads([16], had=64)[0]
    assert first.id == "m=16,n=10240,k=8192,had=64"


@pytest.mark.parametrize(
    ("tp", "shapes"),
    [
        (2, [(8192, 5120), (4096, 8192), (8192, 28672), (14336, 8192)]),
        (8, [(8192, 1280), (1024, 8192), (8192, 7168), (3584, 8192)]),
    ],
)
def test_tensor_parallelism_cuts_n_of_column_and_k_of_row_layers(
    tp: int, shapes: list[tuple[int, int]]
) -> None:
    assert [(one["k"], one["n"]) for one in models.LLAMA_3_3_70B.workloads([1], tp)] == shapes


def test_a_replicated_layer_keeps_its_shape_under_tensor_parallelism() -> None:
    kv_a = next(layer for layer in models.DEEPSEEK_CODER_V2_LITE.layers if layer.name == "kv_a")
    assert kv_a.shape(4) == (2048, 576)


def test_layers_of_one_shape_share_a_workload() -> None:
    twins = Model("twins", "made up", (Layer("a", 64, 128, "n"), Layer("b", 64, 128, "k")))
    assert [one.id for one in twins.workloads([1])] == ["m=1,n=128,k=64"]
    assert [(one["k"], one["n"]) for one in twins.workloads([1], tp=2)] == [(64, 64), (32, 128)]


@pytest.mark.parametrize(
    ("model", "tp", "parts"),
    [
        (models.LLAMA_3_3_70B, 3, ["tp=3", "layer qkv", "n=10240", "8 whole pieces", "work: 1, 2, 4, 8"]),
        (models.LLAMA_3_3_70B, 16, ["tp=16", "n=10240"]),  # 16 divides 10240, but not the 8 KV heads
        (models.QWEN_2_5_7B, 8, ["layer qkv", "n=4608", "work: 1, 2, 4"]),
        (models.DEEPSEEK_CODER_V2_LITE, 32, ["layer q", "n=3072", "16 whole pieces"]),
        (
            Model("odd", "made up", (Layer("x", 6, 9, "k"),)),
            4,
            ["tp=4", "layer x of odd", "(k=6)", "work: 1, 2, 3, 6"],
        ),
    ],
)
def test_tp_that_does_not_divide_names_layer_size_tp_and_what_works(
    model: Model, tp: int, parts: list[str]
) -> None:
    with pytest.raises(ValueError, match="does not divide") as raised:
        model.workloads([1], tp)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("tp", [0, -1, 1.5, True])
def test_tp_must_be_a_positive_whole_number(tp: int) -> None:
    with pytest.raises(ValueError, match=f"tp {tp!r}"):
        models.LLAMA_2_7B.workloads([1], tp)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="batch size 0"):
        models.LLAMA_2_7B.workloads([16, 0])


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split='m'"):
        Layer("x", 8, 8, "m")


def test_sweep_takes_generators_and_keeps_one_of_each_shape() -> None:
    made = sweep((MODELS[name] for name in ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1")),
                 iter([1, 16]), iter([1, 2]), had=32)  # fmt: skip
    assert len(made) == 4 * 2 * 2
    assert len({one.id for one in made}) == len(made)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
        ("META-LLAMA/llama-2-7B-HF", "meta-llama/Llama-2-7b-hf"),
        ("Llama-3.3-70B", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("Llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("meta-llama/Llama-3.1-405b-hf", "meta-llama/Llama-3.1-405B"),
        ("Mistral-7B", "mistralai/Mistral-7B-v0.1"),
        ("Mistral-Large-2407", "mistralai/Mistral-Large-Instruct-2407"),
        ("Qwen2.5-32B", "Qwen/Qwen2.5-32B-Instruct"),
        ("DeepSeek-Coder-V2-Lite", "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"),
        ("command-a", "CohereLabs/c4ai-command-a-03-2025"),
        (" Nemotron-Nano-9B-v2 ", "nvidia/NVIDIA-Nemotron-Nano-9B-v2"),
    ],
)
def test_a_model_is_found_by_full_or_unambiguous_short_name(name: str, full: str) -> None:
    assert get_model(name) is MODELS[full]


@pytest.mark.parametrize("name", ["gpt-17", "", "/", "-"])
def test_an_unknown_model_lists_the_known(name: str) -> None:
    with pytest.raises(ValueError, match="unknown model") as raised:
        get_model(name)
    assert all(known in str(raised.value) for known in MODELS)


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"did you mean meta-llama/Llama-3\.3-70B-Instruct"):
        get_model("meta-llama/Llama-3.3-70B-Instuct")


def test_an_ambiguous_name_lists_what_it_fits() -> None:
    with pytest.raises(ValueError, match="fits several") as raised:
        get_model("Llama-2")
    assert "Llama-2-7b-hf" in str(raised.value)
    assert "Llama-2-70b-hf" in str(raised.value)
    assert "Qwen" not in str(raised.value)


def write(folder: Path, content: object) -> Path:
    file = folder / "config.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_gives_the_layers_of_the_table(name: str, tmp_path: Path) -> None:
    made = from_config(write(tmp_path, {**CONFIGS[name], "vocab_size": 32000}))
    assert made.layers == MODELS[name].layers
    assert made.source == str(tmp_path / "config.json")


def test_a_folder_is_read_and_names_the_model(tmp_path: Path) -> None:
    write(tmp_path, CONFIGS["meta-llama/Llama-2-7b-hf"])
    assert from_config(tmp_path).name == tmp_path.name
    assert from_config(tmp_path, name="mine").name == "mine"


def test_the_path_in_the_file_names_the_model(tmp_path: Path) -> None:
    assert (
        from_config(write(tmp_path, {**CONFIGS["Qwen/Qwen2.5-7B-Instruct"], "_name_or_path": "q"})).name
        == "q"
    )


def test_absent_kv_heads_mean_multi_head_attention_for_llama_only(tmp_path: Path) -> None:
    config = dict(CONFIGS["meta-llama/Llama-2-7b-hf"])
    del config["num_key_value_heads"]
    assert from_config(write(tmp_path, config)).layers == models.LLAMA_2_7B.layers
    with pytest.raises(ValueError, match="missing field 'num_key_value_heads'"):
        from_config(write(tmp_path, {**config, "model_type": "mistral"}))


def test_head_dim_of_the_file_outranks_hidden_over_heads(tmp_path: Path) -> None:
    config = {
        **CONFIGS["mistralai/Mistral-7B-v0.1"],
        "hidden_size": 5120,
        "head_dim": 128,
    }  # Mistral-Nemo's layout
    assert [(one.k, one.n) for one in from_config(write(tmp_path, config)).layers][:2] == [
        (5120, 6144),
        (4096, 5120),
    ]


def test_query_compression_of_deepseek_v2(tmp_path: Path) -> None:
    config = {**CONFIGS["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"], "q_lora_rank": 1536}
    first = from_config(write(tmp_path, config)).layers[:2]
    assert first == (Layer("q_a", 2048, 1536, None), Layer("q_b", 1536, 3072, "n", 16))


def test_deepseek_v2_without_experts_is_dense_and_without_dense_layers_is_not(tmp_path: Path) -> None:
    config = {**CONFIGS["deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct"]}
    dense = from_config(write(tmp_path, {**config, "n_routed_experts": None})).layers
    assert [one.name for one in dense[4:]] == ["gate_up", "down"]
    sparse = from_config(
        write(tmp_path, {**config, "first_k_dense_replace": 0, "n_shared_experts": None})
    ).layers
    assert [one.name for one in sparse[4:]] == ["expert_gate_up", "expert_down"]


def test_nemotron_h_has_only_the_layers_of_its_pattern(tmp_path: Path) -> None:
    config = {**CONFIGS["nvidia/NVIDIA-Nemotron-Nano-9B-v2"], "hybrid_override_pattern": "M-"}
    made = from_config(write(tmp_path, config))
    assert [one.name for one in made.layers] == ["in_proj", "out_proj", "up", "down"]


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "intermediate_size"])
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIGS["Qwen/Qwen2.5-7B-Instruct"].items() if key != field}
    with pytest.raises(ValueError, match=f"config.json: missing field '{field}'"):
        from_config(write(tmp_path, config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "4096"}, "'hidden_size' is '4096'; expected a positive integer"),
        ({"hidden_size": True}, "'hidden_size' is True"),
        ({"intermediate_size": 0}, "'intermediate_size' is 0"),
        ({"num_attention_heads": 24}, "3584 is not a multiple of num_attention_heads 24; give head_dim"),
        (
            {"model_type": "mixtral"},
            "unsupported model_type 'mixtral'; known: cohere, cohere2, deepseek_v2, llama",
        ),
        ({"model_type": None}, "unsupported model_type None"),
        ({"model_type": ["llama"]}, "unsupported model_type"),
        ({"model_type": "qwen3"}, "missing field 'head_dim'"),
        ({"model_type": "nemotron_h"}, "'hybrid_override_pattern' is None; known blocks"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "MEM*"}, "'MEM\\*'; known blocks"),
    ],
)
def test_a_bad_field_is_named_with_its_value(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        from_config(write(tmp_path, {**CONFIGS["Qwen/Qwen2.5-7B-Instruct"], **change}))


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("", "is not JSON"), ("[1]", "holds a JSON list")]
)
def test_a_file_that_is_no_config_is_refused_by_name(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"config.json {message}"):
        from_config(write(tmp_path, content))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not JSON"):
        from_config(tmp_path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="or the folder that holds one"):
        from_config(tmp_path / "nowhere")
