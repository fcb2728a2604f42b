"""The README's table of products is that of the stored run; what the tables say of peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.result import Ceilings, Result, read_run
from tests.products_table import Products, peers_table, slower, table
from tests.reports import result, run_of, with_

ROOT = Path(__file__).parents[2]
SHAPE = {"n": 8192, "k": 8192}
CEILINGS = Ceilings(4000.0, 800.0, read_gbps=4400.0, by_accumulator={"fp8-fast": 1600.0})


def made(*more: Result) -> Products:
    """o at two batch sizes: faster than bf16 at M = 1, slower at 1024; then whatever else."""
    results = [
        *(result("bf16_gemm", "torch-bf16", us, m=m, **SHAPE) for m, us in ((1, 34.0), (1024, 170.0))),
        *(ours("nvfp4_w4a16_gemm", us, m) for m, us in ((1, 17.0), (1024, 171.0))),
        *more,
    ]
    return Products.of(run_of(*results, ceilings=CEILINGS))


def ours(op: str, us: float, m: int, provider: str = "triton-prepared", accumulator: str = "fp32") -> Result:
    return with_(result(op, provider, us, m=m, **SHAPE), accumulator=accumulator)


def row(text: str, *parts: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize("names", [("products",), ("products_more", "products_more_fp8")])
def test_the_readme_shows_the_stored_runs(names: tuple[str, ...]) -> None:
    stored = [Products.of(read_run(ROOT / f"tests/data/h200_{name}.json")) for name in names]
    assert table(*stored) in (ROOT / "README.md").read_text()


def test_runs_of_different_products_stand_in_one_table_each_beside_its_own_bf16() -> None:
    other = [result("bf16_gemm", "torch-bf16", 40.0, m=1, **SHAPE), ours("mxfp4_w4a16_gemm", 10.0, 1)]
    text = table(made(), Products.of(run_of(*other, ceilings=CEILINGS)))
    assert "17, 2.00×" in text and "10, 4.00×" in text


def test_a_cell_holds_time_speedup_and_share_of_the_ceiling_of_its_own_units() -> None:
    text = table(made(ours("mxfp4_w4a4_gemm", 100.0, 1024, "triton-fp8", "fp8-fast")))
    cells = row(text, "NVFP4 × bf16", "qkv")
    assert cells == ["NVFP4 × bf16", "qkv", "-", "-"], "what was not run is not made up"
    (line,) = [each for each in text.splitlines() if "17, 2.00×" in each]
    # 2·8192·(1 + 8192) bytes in 17 µs, of 4400 GB/s; 2·1024·8192² flops in 171 µs, of 800 TFLOP/s
    assert "17, 2.00×, 179%" in line and "171, 0.99×, 100%" in line
    assert "100, 1.70×, 86%" in text  # of FP8's 1600 TFLOP/s, not 172% of bf16's


def test_files_that_name_no_accumulator_have_no_share() -> None:
    old = made(ours("mxfp4_w4a4_gemm", 100.0, 1024, "triton-fp8", accumulator=""))
    assert "100, 1.70× |" in table(old)


def test_peers_stand_below_ours_with_what_they_cannot_do_and_why() -> None:
    text = peers_table(
        made(
            ours("nvfp4_w4a16_gemm", 25.0, 1, "torch-compile"),
            result("nvfp4_w4a16_gemm", "gemlite", None, m=1, **SHAPE),
            with_(
                result("nvfp4_w4a16_gemm", "humming", None, m=1, **SHAPE), status="wrong", reason="off by 2"
            ),
        )
    )
    header, _, bf16, first, *others = text.splitlines()
    assert header == "| | N × K | provider | M = 1 | M = 1024 |"
    assert bf16.split(" | ")[:3] == ["| NVFP4 × bf16", "o", "torch-bf16"]
    assert first == "|  |  | triton-prepared | 17 | 171 |"
    assert others[:3] == [
        "|  |  | torch-compile | 25 | - |",
        "|  |  | gemlite | n/a (1) | - |",
        "|  |  | humming | wrong (2) | - |",
    ]
    assert "(1) gemlite is not installed" in text and "(2) off by 2" in text


def test_wherever_the_quickest_is_slower_than_bf16_it_is_listed() -> None:
    assert slower(made()) == ["nvfp4_w4a16_gemm o M = 1024: triton-prepared 171 µs, bf16 170 µs, 0.99×"]
    assert slower(made(ours("nvfp4_w4a16_gemm", 160.0, 1024, "triton"))) == []
    assert slower(made(ours("nvfp4_w4a16_gemm", 180.0, 1024, "triton"))) == slower(made())
