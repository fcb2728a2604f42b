"""Somebody else's repository: the plugin and the library from an installed wheel, in an empty folder."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The README's example, with a provider that can run here and shapes for a CPU.
EXAMPLE = """
import qbench, qkernels
gemm = qkernels.gemm(qkernels.NVFP4)
def mylib(x, w):                                   # untimed: repack
    if x.shape[-1] % 64: raise qbench.Unsupported("K % 64 != 0")
    packed = w.dequantize(x.dtype).T.contiguous()
    return lambda: x @ packed                      # timed
SHAPES = [qbench.Workload.of(m=4, n=96, k=k, dtype="float") for k in (128, 144)]
@qbench.parametrize(qbench.cases(gemm, [mylib], SHAPES))
def test_mylib(case, qbench): qbench(case)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip installs it, found through PYTHONPATH from a folder that holds nothing else."""
    made = tmp_path_factory.mktemp("wheel")
    source = (
        made / "source"
    )  # a copy: setuptools builds beside its sources, and processes of one run would meet there
    for folder in ("qbench", "kernels"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(made), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = made.glob("*.whl")
    target = made / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


def first_on_path(installed):
    kept = [path for path in (os.environ.get("PYTHONPATH", ""),) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *kept])}


def run(installed, folder, *args):
    environment = first_on_path(installed)
    environment.pop("GITHUB_STEP_SUMMARY", None)
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_fifteen_lines_check_time_and_judge_a_strangers_kernel(installed, tmp_path):
    assert len(EXAMPLE.strip().splitlines()) <= 15
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(EXAMPLE))
    first = run(installed, tmp_path, "--benchmark-only", "--qbench-update", "--qbench-iters=3", "-rs")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "1 passed, 1 skipped" in first.stdout and "K % 64 != 0" in first.stdout
    assert list((tmp_path / "baselines").rglob("nvfp4_w4a16_gemm.json"))
    second = run(installed, tmp_path, "--benchmark-only", "--qbench-iters=3")
    assert second.returncode == 0 and "no baseline" not in second.stdout


def test_a_strangers_broken_kernel_fails(installed, tmp_path):
    (tmp_path / "test_mine.py").write_text(EXAMPLE.replace("x @ packed", "x @ packed * 1.01"))
    done = run(installed, tmp_path, "--benchmark-only")
    assert done.returncode == 1 and "output is outside its error bound" in done.stdout


def test_the_library_in_use_is_the_installed_one(installed, tmp_path):
    code = "import qbench, qkernels; print(qbench.__file__, qkernels.__file__)"
    environment = first_on_path(installed)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(path.startswith(str(installed)) for path in done.stdout.split())


def test_a_models_shapes_are_cases_without_further_words(installed, tmp_path):
    source = EXAMPLE.replace("[mylib], SHAPES", "[mylib], qkernels.LLAMA_3_3_70B")
    (tmp_path / "test_mine.py").write_text(source)
    done = run(installed, tmp_path, "--collect-only", "-q")
    assert done.stdout.count("nvfp4_w4a16_gemm/mylib[m=") == 16
