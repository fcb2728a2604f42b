"""Every kernel for every target, compiled without a GPU and judged against baselines/compile.

`pytest --qbench-compile` runs all of it; without the option a sample runs, for one target.
"""

from __future__ import annotations

import qbench
from qkernels.triton.compile_cases import all_cases
from tests.compile.attention import attention_cases

TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")


@qbench.parametrize_compiled([*all_cases(), *attention_cases()], TARGETS, sample=["sm_90"])
def test_kernel(compiled, qbench_compile) -> None:
    qbench_compile(compiled)
