"""The checks by name: the entries of qkernels.testing, and short ones that call public functions against oracles.

A check raises an AssertionError (WrongResult is one) if it finds something wrong. It is run in a child, on whatever
copy of the packages comes first on sys.path.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.mutants.mutant import Target
from tests.mutants.subjects import SUBJECTS, Subject

QUANTIZER = (
    "boundaries",
    "shapes",
    "layouts",
    "nonfinite",
    "ties",
    "values",
    "properties",
    "rows",
    "repeat",
    "stale",
)
GEMM = ("certificate", "values", "shapes", "layouts", "nonfinite", "alpha", "repeat", "rows", "extremes")
OWN = {  # name -> module that holds the function of that name, with "_" for "-"
    "codec": "checks_codec",
    "swizzle": "checks_layout",
    "hadamard": "checks_layout",
    "tensor": "checks_tensor",
    "reference": "checks_reference",
    "blocks": "checks_blocks",
    "product": "checks_product",
    "exact": "checks_kernels",
    "rotations": "checks_kernels",
    "e2m1": "checks_kernels",
    "amax": "checks_kernels",
    "offsets": "checks_memory",
    "refusals": "checks_refusals",
    "gemm-quantize": "checks_gemm_quantize",
    "linear": "checks_layer",
    "memory": "checks_layer",
    "comparator": "checks_compare",
    "fragments": "checks_fragments",
    "folded": "checks_fragments",
    "stream": "checks_stream",
    "stream-scales": "checks_stream",
    "unpack": "checks_stream",
    "decode-rows": "checks_stream",
    "rounded": "checks_rounded",
    "fold": "checks_fold",
    "fold-misfits": "checks_fold",
    "fold-ties": "checks_fold",
    "layouts": "checks_tiles",
    "norms": "checks_tiles",
    "held": "checks_held",
    "held-sm90": "checks_held",
    "fp8-few": "checks_few",
    "few-parts": "checks_few",
    "few-folded": "checks_few",
    "finish": "checks_few",
    "prepared": "checks_prepared",
    "prepared-layer": "checks_prepared",
    "prepared-ops": "checks_prepared",
    "prepared-product": "checks_plans",
    "plans": "checks_plans",
    "epilogue": "checks_epilogue",
    "epilogue-places": "checks_epilogue",
    "fold-codes-of": "checks_epilogue",
    "quantized-products": "checks_epilogue",
    "quantized-layers": "checks_epilogue",
    "attend": "checks_attend",
    "attend-takes": "checks_attend",
}
CHECKS = (*(f"quantizer:{name}" for name in QUANTIZER), *(f"gemm:{name}" for name in GEMM), *OWN)
EXAMPLES = 25  # of hypothesis, for each check


def set_up() -> None:
    """Once in a child, before any kernel runs."""
    import warnings

    from hypothesis import Phase

    from qbench.interpreter import repair
    from qkernels.testing import hunt, quantizer

    repair()
    warnings.simplefilter("ignore")  # numpy's, of the NaN that mutants make
    # A small example helps a reader; here it counts that there is one.
    for module, name, value in ((quantizer, "SHRINK_RUNS", 0), (hunt, "_PHASES", (Phase.generate,))):
        assert hasattr(module, name), (
            f"{module.__name__} has no {name} any more: shrinking takes most of the time"
        )
        setattr(module, name, value)


def check_of(target: Target) -> Callable[[], None]:
    """The check as a call without arguments."""
    family, _, name = target.check.partition(":")
    if family == "quantizer" and name:
        return lambda: _quantizer(name, SUBJECTS[target.on])
    if family == "gemm" and name:
        return lambda: _gemm(name, SUBJECTS[target.on])
    import importlib

    function = getattr(importlib.import_module(f"tests.mutants.{OWN[family]}"), family.replace("-", "_"))
    return (lambda: function(SUBJECTS[target.on])) if target.on else function


def _quantizer(name: str, subject: Subject) -> None:
    from qkernels.testing import check_quantizer

    check_quantizer(
        subject.quantizer(), subject.fmt, examples=EXAMPLES, device="cpu", checks=[name], **subject.options
    )


def _gemm(name: str, subject: Subject) -> None:
    from qkernels.format import get_format
    from qkernels.testing import check_gemm

    activation = get_format(subject.activation) if subject.activation else None
    check_gemm(
        subject.multiplier(),
        subject.fmt,
        activation,
        bias=subject.bias,
        out_dtype=subject.out_dtype,
        examples=EXAMPLES,
        device="cpu",
        checks=[name],
    )
