"""The sweep's selections: what each option chooses, and the words for what nothing knows."""

import pytest
import torch

from qbench.collect import collect
from tests.bench.sweep import whole_model


def ids(*options):
    cases = collect(["tests/bench", *options])
    return [] if cases is None else [each.case.id for each in cases]


@pytest.fixture(autouse=True)
def at_the_root_without_a_gpu(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a GPU's providers are many more cases


def test_a_named_model_gives_its_real_shapes_by_tp_and_batch():
    found = ids(
        "--models",
        "Llama-3.3-70B",
        "--tp-sizes",
        "1",
        "8",
        "--batch-sizes",
        "32",
        "--providers",
        "torch-bf16",
    )
    bf16 = {name for name in found if name.startswith("bf16_gemm")}
    assert {
        "bf16_gemm/torch-bf16[m=32,n=8192,k=8192]",
        "bf16_gemm/torch-bf16[m=32,n=57344,k=8192]",
        "bf16_gemm/torch-bf16[m=32,n=7168,k=8192]",
        "bf16_gemm/torch-bf16[m=32,n=8192,k=1024]",
    } <= bf16


def test_full_sweeps_sixteen_batches_and_every_hadamard_size_of_a_format():
    found = [name for name in ids("--full", "-k", "test_gemm and hadamard") if "/triton" in name]
    every = ids("--models", "Llama-3.3-70B", "--batch-sizes", "1", "--full", "--providers", "torch-eager")
    sizes = {name.split("had=")[1] for name in every if name.startswith("nvfp4_hadamard_gemm")}
    # without a GPU a provider that needs one stands for its shapes by the first
    kinds = {(name.partition("[")[0], name.split("had=")[1]) for name in found}
    assert len(found) == len(kinds)
    assert sizes == {"16]", "32]", "64]", "128]"}


def test_hadamard_sizes_are_narrowed_to_those_the_format_has():
    found = ids("--had-sizes", "16", "64", "--providers", "torch-eager")
    assert {"had=16]", "had=64]"} == {n.split(",")[-1] for n in found if n.startswith("nvfp4_hadamard")}
    assert {"had=64]"} == {n.split(",")[-1] for n in found if n.startswith("mxfp4_hadamard")}


def test_quantizer_options_choose_type_scale_dtype_and_shape():
    found = ids("--quant-dtype", "fp8", "--static-scale", "--dtype", "bfloat16", "--num-tokens", "7",
                "--hidden-size", "64", "--providers", "torch-eager", "-k", "quantize")  # fmt: skip
    assert found == ["fp8_quantize/torch-eager[m=7,k=64,dtype=bfloat16,scale=static]"]


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Llama-2-7b-hf", "Mistral-7B-v0.1", "Nemotron-Nano-9B-v2"])
@pytest.mark.parametrize("more", [["--batch-sizes", "1", "4096"], ["--full"]])
def test_every_model_collects_whole_without_a_case_twice(model, more):
    found = ids("--models", model, *more)
    assert len(found) == len(set(found)) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "Llama-9"], "unknown model 'Llama-9'"),
        (["--models", "Llama-3.3-70B", "--tp-sizes", "3"], "tp=3 does not divide layer"),
        (["--models", "./no/config.json"], "no model config at"),
        (["--providers", "cublas"], "unknown provider 'cublas'; known: torch-bf16"),
        (["--had-sizes", "7"], "unknown Hadamard size 7; known: 16, 32, 64, 128"),
        (["--batch-sizes", "0"], "whole numbers of at least 1"),
        (["--dtype", "fp4"], "invalid choice"),
    ],
)
def test_unknown_names_are_usage_errors_that_list_the_known(options, words, capsys):
    assert ids(*options) == []
    assert words in "".join(capsys.readouterr())


def test_peers_stand_for_the_ends_of_a_sweep_unless_they_are_named(monkeypatch):
    monkeypatch.setattr("tests.bench.sweep.capability", lambda: (9, 0))  # they could run here
    asked = ["--models", "Llama-3.3-70B", "--batch-sizes", "1", "16", "64", "--providers"]
    peers = ["torch-compile", "torch-compile-fp8", "torch-scaled-mm-fp8", "torch-scaled-mm-fp8-slow"]
    named = [name for name in ids(*asked, *peers) if "gemm" in name]
    assert len(named) == 4 * 3 * (2 + 2 + 1 + 3)  # w4a16, w4a4, on the way, and in E4M3
    found = [name for name in ids(*asked[:-1]) if "/torch-compile[" in name and "mxfp4_w4a16" in name]
    assert found == [
        f"mxfp4_w4a16_gemm/torch-compile[m={m},n={n},k={k}]"
        for m, n, k in ((1, 10240, 8192), (64, 8192, 28672))
    ]


def test_a_local_config_json_is_a_model(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,'
        '"num_key_value_heads": 2, "num_hidden_layers": 2}'
    )
    found = ids("--models", str(tmp_path / "config.json"), "--batch-sizes", "3", "--providers", "torch-bf16")
    assert "bf16_gemm/torch-bf16[m=3,n=1024,k=256]" in found


def test_recipes_ask_for_whole_models_and_nothing_else():
    found = ids(
        "--recipes",
        "bf16",
        "int8",
        "--models",
        "Llama-3.1-8B",
        "--batch-sizes",
        "1",
        "8",
        "--new-tokens",
        "4",
    )
    assert len(found) == 2 * 2 * 2
    assert found[:2] == [
        f"model_{part}/bf16[model=Llama-3.1-8B,batch=1,prompt=128,new=4]" for part in ("prefill", "decode")
    ]
    recipes = [name.split("/")[1].split("[")[0] for name in found]
    assert recipes == ["bf16"] * 4 + ["int8"] * 4  # a model is built once for each


def test_without_a_gpu_a_tiny_model_is_run_unless_something_was_selected():
    assert {name.split("/")[0] for name in ids("-k", "test_models")} == {"model_prefill", "model_decode"}
    assert ids("-k", "test_models", "--providers", "triton") == []


@pytest.mark.parametrize(
    ("name", "layers", "label"),
    [
        ("llama-3.1-8b", None, "Llama-3.1-8B"),
        ("nemotron-nano-9b-v2", None, "NVIDIA-Nemotron-Nano-9B-v2"),
        ("Llama-3.3-70B", 2, "Llama-3.3-70B-Instruct-2-layers"),
        ("tiny-llama", None, "tiny-llama"),
    ],
)
def test_a_whole_model_is_named_as_its_preset_is(name, layers, label):
    assert whole_model(name, layers)[0] == label


@pytest.mark.parametrize(
    ("name", "layers", "kind", "words"),
    [
        ("Llama-2-7b", None, ValueError, "swept shapes only; whole models: meta-llama/Llama-3.1-8B"),
        ("Lama", None, ValueError, "unknown model 'Lama'"),
        ("/nowhere", None, FileNotFoundError, "no model at /nowhere"),
    ],
)
def test_a_model_that_cannot_be_built_is_said_with_those_that_can(name, layers, kind, words):
    with pytest.raises(kind, match=words):
        whole_model(name, layers)
