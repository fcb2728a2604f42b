"""Every quantizer, the exact ones of every format and the Triton kernels, through every check of check_quantizer.

The kernels are interpreted on a CPU and compiled on a GPU. `-k reference`, `-k triton`, `-k nvfp4` or `-k values` pick
some; QUANTIZER_EXAMPLES=10000 sets how many inputs hypothesis draws for each ("values" and "properties" draw).
"""

from __future__ import annotations

import pytest
import triton

from qbench.interpreter import repair
from qkernels.testing import check_quantizer
from tests.quantizers import REFERENCES, TRITON, Use, examples

if triton.knobs.runtime.interpret:
    repair()

CASES = [
    pytest.param(use, check, id=f"{use}-{check}")
    for use in (*REFERENCES, *TRITON)
    for check in use.applicable()
]


@pytest.mark.parametrize(("use", "check"), CASES)
def test_quantizer(use: Use, check: str) -> None:
    check_quantizer(use.provider, use.format, checks=[check], examples=examples(), **use.options)
