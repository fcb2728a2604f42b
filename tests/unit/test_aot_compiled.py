"""qbench.compiled, as somebody else's test would use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qbench
from qbench.aot import CompileFailed, NotAsRequired
from tests.unit import aot_kernels as toys


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBENCH_COMPILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(64, 1024, dtype=torch.bfloat16), torch.empty(1024, 64, dtype=torch.bfloat16)


def test_a_product_uses_the_tensor_cores_of_hopper() -> None:
    (kernel,) = qbench.compiled(toys.product, operands(), {"num_stages": 2}, target="sm_90")
    assert kernel.name == "product_kernel" and kernel.launch.options["num_stages"] == 2
    assert kernel.has("wgmma.bf16") and kernel.has("HGMMA") and not kernel.has("HMMA")
    kernel.require("wgmma", "LDGSTS", forbid=("HMMA",), load_bits=128, store_bits=64)
    assert "0 B spilled" in str(kernel) and "wgmma.bf16 A=shared" in str(kernel)


def test_every_difference_is_named() -> None:
    (kernel,) = qbench.compiled(toys.product, operands(), target="sm_80")
    with pytest.raises(
        NotAsRequired, match=r"wgmma(.|\n)*256(.|\n)*product_kernel\(a_ptr: \*bf16 %16"
    ) as raised:
        kernel.require("wgmma", load_bits=256)
    assert "mma.sync.bf16" in str(raised.value)


def test_a_kernel_that_does_not_compile() -> None:
    def launcher() -> None:
        toys.bad_assembly_kernel[(1,)](torch.empty(128))

    with pytest.raises(
        CompileFailed, match=r"bad_assembly_kernel does not compile for sm_90: ptxas: Not a name of"
    ):
        qbench.compiled(launcher, target="sm_90")


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(
        ValueError, match=r"test_mistakes.*<lambda> launched no Triton kernel; pass a function"
    ):
        qbench.compiled(lambda: None, target="sm_90")
    with pytest.raises(ValueError, match="unknown target 'hopper'; known: sm_80"):
        qbench.compiled(toys.copy, operands(), target="hopper")
    with pytest.raises(ZeroDivisionError):  # errors of the launcher are its own
        qbench.compiled(lambda: 1 // 0, target="sm_90")


def test_the_cache_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_COMPILE_CACHE", str(tmp_path))
    qbench.compiled(toys.copy, (torch.empty(64),), target="sm_89", cache=False)
    assert list(tmp_path.iterdir()) == []
