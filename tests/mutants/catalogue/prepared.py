"""Bugs in prepared weights: products, operators, layers, the choice of a kernel, how work is divided on a GPU."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_p = partial(Mutant, file="qkernels/prepared.py")
_l = partial(Mutant, file="qkernels/prepared_linear.py")
_o = partial(Mutant, file="qkernels/prepared_ops.py")
_c = partial(Mutant, file="qkernels/triton/prepared_product.py")
_few = partial(Mutant, file="qkernels/triton/fp4_few_plan.py")
_k = partial(Mutant, file="qkernels/triton/stream_k.py")
_plan = partial(Mutant, file="qkernels/triton/stream_plan.py")
_ROWS = "product(ops.rows_of(x), w, gs, ops.row_unit(x.format), bias, dtype)"
_LAST = "            y = y / gs\n    return round_to(y if bias is None else y + bias, out_dtype)\n"
_DIVIDED = "            y = y / gs\n"

MUTANTS = (
    # --- products
    _p(
        "prepared-unit-of-rows-forgotten",
        _ROWS,
        _ROWS.replace("ops.row_unit(x.format)", "1.0"),
        "the quarters of MXFP4 rows and the gain of abs_max are not undone",
        "prepared",
    ),
    _p(
        "prepared-global-scale-of-x-lost",
        _ROWS,
        _ROWS.replace("gs", "None"),
        "the product is not divided by the global scale of x",
        "prepared",
    ),
    _p(
        "prepared-output-in-bf16",
        "1.0, bias, out_dtype or x.dtype)",
        "1.0, bias, out_dtype or torch.bfloat16)",
        "fp16 activations give bf16",
        "prepared",
    ),
    _p(
        "prepared-rotations-not-compared",
        "if x.hadamard != w.hadamard:",
        "if False:",
        "operands of different rotations are multiplied",
        "prepared",
    ),
    _p(
        "prepared-formats-not-compared",
        "alike = (x.format.block, x.format.scale) == (w.format.block, w.format.scale)",
        "alike = True",
        "MXFP4 activations are multiplied with NVFP4 weights",
        "prepared",
    ),
    _p(
        "prepared-mxfp4-in-fp16",
        'if x.dtype == torch.float16 and fmt.scale == "e8m0":',
        "if False:",
        "MXFP4 weights are multiplied in fp16, whose range their scales leave",
        "prepared",
    ),
    _p(
        "prepared-any-rows-folded",
        "if w.shape[0] % 8:",
        "if w.shape[0] % 4:",
        "weights are folded whose products cannot be stored",
        "prepared",
    ),
    Mutant(
        "prepared-scales-of-rows-strided",
        "scale.shape == (m, 1) and scale.is_contiguous()",
        "scale.shape == (m, 1)",
        "global scales of rows that lie apart are read as if they did not",
        "prepared",
        file="qkernels/triton/x_scales.py",
    ),
    Mutant(
        "prepared-scales-of-other-rows",
        "scale.shape == (m, 1) and scale.is_contiguous()",
        "scale.is_contiguous()",
        "fewer global scales than rows are taken",
        "prepared",
        file="qkernels/triton/x_scales.py",
    ),
    # --- layer
    _l(
        "layer-rotation-forgotten",
        "sixteen(rotate(rows, had, x.dtype) if had else rows, self.format)",
        "sixteen(rows, self.format)",
        "plain activations are not rotated as the weights were",
        "prepared-layer",
    ),
    _l(
        "layer-dynamic-scale-lost",
        "gs = dynamic[0] if dynamic else self.input_global_scale",
        "gs = self.input_global_scale",
        "the product is not divided by a global scale that was found",
        "prepared-layer",
    ),
    _l(
        "layer-scales-cut",
        "if tensor is not None and (moved := getattr(self, name)).dtype != tensor.dtype:",
        "if False and (moved := getattr(self, name)):",
        ".half() cuts scales to sixteen bits",
        "prepared-layer",
    ),
    _l(
        "layer-unit-not-loaded",
        "        if not self.folded:\n",
        "        if False:\n",
        "loaded weights are multiplied by the unit of the former ones",
        "prepared-layer",
    ),
    _l(
        "layer-any-state-loaded",
        "if saved != self._meaning():",
        "if False:",
        "weights of another rotation are loaded",
        "prepared-layer",
    ),
    Mutant(
        "layer-scales-of-tokens-lost",
        "product(rows, self.prepared(), top, row_unit",
        "product(rows, self.prepared(), None, row_unit",
        "the product is not divided by its tokens' global scales",
        "prepared-layer",
        file="qkernels/models/fast.py",
    ),
    Mutant(
        "layer-of-tokens-in-bf16",
        "row_unit(self.format), self.bias, x.dtype)",
        "row_unit(self.format), self.bias, torch.bfloat16)",
        "fp32 inputs give bf16",
        "prepared-layer",
        file="qkernels/models/fast.py",
    ),
    # --- operators
    _o(
        "ops-rounded-twice",
        _LAST,
        _DIVIDED
        + "    return round_to((y if bias is None else y + bias).to(torch.bfloat16).double(), out_dtype)\n",
        "outputs pass through bf16",
        "prepared",
    ),
    _o(
        "ops-bias-of-rounded-product",
        _LAST,
        _DIVIDED
        + "    return round_to(y if bias is None else round_to(y, out_dtype).double() + bias, out_dtype)\n",
        "the bias is added to a rounded product",
        "prepared",
    ),
    _o(
        "ops-global-scale-multiplies",
        "y = y / gs",
        "y = y * gs",
        "global scales multiply instead of dividing",
        "prepared",
    ),
    _o(
        "ops-rows-over-their-global-scales",
        'if q.format.global_granularity == "row":',
        "if False:",
        "rows are divided by their global scales, rounded, and divided again",
        "prepared",
    ),
    _o(
        "ops-rows-not-quartered",
        '(4.0 if fmt.scale == "e8m0" else 1.0) / fmt.gain',
        "1.0 / fmt.gain",
        "rows of MXFP4 are whole, and 6 * 2^127 overflows",
        "prepared-ops",
    ),
    _o(
        "ops-given-scale-ignored",
        "return quantize(x, fmt, global_scale=global_scale, hadamard=hadamard or None)",
        "return quantize(x, fmt, hadamard=hadamard or None)",
        "a static global scale is ignored",
        "prepared-ops",
    ),
    _o(
        "ops-rotation-ignored",
        "return quantize(x, fmt, global_scale=global_scale, hadamard=hadamard or None)",
        "return quantize(x, fmt, global_scale=global_scale)",
        "activations are not rotated",
        "prepared-ops",
    ),
    _o(
        "ops-misfits-refused",
        "_quantized(x, fmt, None, hadamard), exact=False)",
        "_quantized(x, fmt, None, hadamard))",
        "activations whose scales are far apart are an error",
        "prepared-ops",
        dies="Unsupported",
    ),
    # --- choice of a kernel
    _c(
        "choice-unit-forgotten",
        "out_dtype=torch.float32) * w.unit",
        "out_dtype=torch.float32)",
        "products of unpacked weights are off by a power of two",
        "prepared-product",
    ),
    _c(
        "choice-global-scale-of-x-first",
        "for gs in (w.global_scale, x_global_scale):",
        "for gs in (x_global_scale, w.global_scale):",
        "large rows of x overflow on the way, divided by their global scales before that of w",
        "prepared-product",
    ),
    _c(
        "choice-global-scale-of-x-alone",
        "for gs in (w.global_scale, x_global_scale):",
        "for gs in (x_global_scale,):",
        "products of unpacked weights ignore their global scale",
        "prepared-product",
    ),
    _c(
        "choice-bias-of-rounded-product",
        "return (y if bias is None else y + bias).to(out_dtype)",
        "return (y if bias is None else y.to(out_dtype) + bias).to(out_dtype)",
        "the bias is added to a rounded product",
        "prepared-product",
    ),
    _c(
        "choice-rows-half-aligned",
        "x.stride(0) % 8 == 0 and",
        "x.stride(0) % 4 == 0 and",
        "rows at multiples of 8 bytes are given to TMA",
        "prepared-product",
    ),
    # --- shares of work
    _few(
        "few-last-item-left-out",
        "items, steps, programs = cdiv(tiles, TILES * few.wr)",
        "items, steps, programs = max(1, tiles // (TILES * few.wr))",
        "the last rows of weights are never computed",
        "plans",
    ),
    _few(
        "few-split-without-counters",
        "if programs * few.wr > counters or (",
        "if (",
        "items are split between programs that have no counters",
        "plans",
    ),
    _plan(
        "stream-k-free-joins",
        "joins * shape.join_ns",
        "0 * shape.join_ns",
        "tiles alone are split where that costs more than it saves",
        "plans",
    ),
    _plan(
        "stream-k-free-parts",
        " + shape.part_ns",
        "",
        "tiles behind others are split where that costs more than it saves",
        "plans",
    ),
    _k(
        "stream-k-steps-past-the-last",
        "limit = min(base + group * steps, split * steps)",
        "limit = base + group * steps",
        "programs that share nothing go on with tiles that are not there",
        "plans",
    ),
    _k(
        "stream-k-rest-left",
        "min(base + lead + member * rest, limit)",
        "min(base + lead + member * rest - 1, limit)",
        "the last step of a part is never multiplied",
        "plans",
    ),
    Mutant(
        "hopper-any-later-gpu",
        "get_device_capability(device)[0] != 9",
        "get_device_capability(device)[0] < 9",
        "Hopper's kernels are compiled for GPUs that have no wgmma",
        "plans",
        file="qkernels/triton/workspaces.py",
    ),
)
