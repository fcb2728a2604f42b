"""Bugs in what is built on the quantizers: QTensor, the product reference, layers, memory figures."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_t = partial(Mutant, file="qkernels/tensor.py", check="tensor")
_r = partial(Mutant, file="qkernels/reference.py", check="product")
_l = partial(Mutant, file="qkernels/linear.py", check="linear")
_f = partial(Mutant, file="qkernels/format.py", check="memory")
_m = partial(Mutant, file="qkernels/memory.py", check="memory")
_a = partial(Mutant, file="qkernels/api.py")

MUTANTS = (
    _t(
        name="tensor-global-scale-multiplied",
        old="return 1.0 / self._divisor()",
        new="return self._divisor()",
        bug="alpha is the encode scale instead of its reciprocal",
    ),
    _t(
        name="tensor-abs-max-gain",
        old="return one * self.format.gain",
        new="return one",
        bug="values of abs_max are three times what they are",
    ),
    _t(
        name="tensor-zero-point-added",
        old="codes = codes - self._spread(self.zero_point)",
        new="codes = codes + self._spread(self.zero_point)",
        bug="the zero point is added when decoding",
    ),
    _t(
        name="tensor-rows-keep-scale",
        old="scale=self.scale[groups]",
        new="scale=self.scale[: groups.stop - groups.start]",
        bug="a slice of rows has the scales of the first rows",
    ),
    _t(
        name="tensor-scale-shape-not-checked",
        old="if tuple(self.scale.shape) != shape or self.scale.dtype != dtype:",
        new="if False:",
        bug="scales of another shape are taken, as a swizzled buffer is",
    ),
    _t(
        name="tensor-bytes-without-scale",
        old="for t in (self.scale, self.global_scale, self.zero_point)",
        new="for t in (self.global_scale, self.zero_point)",
        bug="the scales are not counted",
    ),
    _t(
        name="tensor-2d-rows",
        old="scales.repeat_interleave(fmt.block_rows, dim=-2)",
        new="scales.repeat(fmt.block_rows, 1)",
        bug="scales of 2-D blocks are laid out row by row of blocks",
    ),
    # --- product
    _r(
        name="product-alpha-once",
        old="out = out * (_alpha(a) * _alpha(b))\n",
        new="out = out * _alpha(a)\n",
        bug="the alpha of b is left out",
    ),
    _r(
        name="product-bias-before-alpha",
        old="    return out + bias.to(torch.float64)\n\n\ndef magnitude",
        new="    return out + bias.to(torch.float64) * _alpha(b)\n\n\ndef magnitude",
        bug="the bias is multiplied by alpha",
    ),
    _r(
        name="product-in-fp32",
        old="return t.exact_values() if isinstance(t, QTensor) else t.to(torch.float64)",
        new="return (t.exact_values() if isinstance(t, QTensor) else t).float()",
        bug="the reference is computed in fp32",
        dies="RuntimeError",
    ),
    _r(
        name="product-azp-sign",
        old="product = product - a.zero_point",
        new="product = product + a.zero_point",
        bug="the zero point's term is added",
    ),
    _r(
        name="product-azp-of-a",
        old=".to(torch.float64) * right.sum(1)",
        new=".to(torch.float64) * left.sum(1, keepdim=True)",
        bug="the zero point multiplies the sums of a instead of those of b",
    ),
    _r(
        name="product-rows-at-once",
        old="else t[start : start + ROWS_AT_ONCE]",
        new="else t[:ROWS_AT_ONCE]",
        bug="every part of a tall b is its first",
    ),
    _r(
        name="product-rotation-not-compared",
        old="if isinstance(a, QTensor) and isinstance(b, QTensor) and a.hadamard != b.hadamard:",
        new="if False:",
        bug="operands of different rotations are multiplied",
    ),
    _r(
        name="product-magnitude-signed",
        old="    return _exact(t).abs()\n",
        new="    return _exact(t)\n",
        bug="|A||B|^T is the product itself: errors under cancellation look too large",
    ),
    # --- layer
    _l(
        name="linear-bias-dropped",
        old="self.quantized_weight(), bias=self.bias, out_dtype=x.dtype)",
        new="self.quantized_weight(), out_dtype=x.dtype)",
        bug="the bias is not added",
    ),
    _l(
        name="linear-activations-not-rotated",
        old="return rows if self.hadamard is None else rotate(rows, self.hadamard, x.dtype)",
        new="return rows",
        bug="the weight is rotated, 16-bit activations are not",
    ),
    _l(
        name="linear-quantized-activations-not-rotated",
        old="global_scale=self.input_global_scale, hadamard=self.hadamard)",
        new="global_scale=self.input_global_scale)",
        bug="the weight is rotated, quantized activations are not",
        dies="ValueError",
    ),
    _l(
        name="linear-weight-not-rotated",
        old="q = quantize(weight, fmt, hadamard=hadamard)",
        new="q = quantize(weight, fmt)",
        bug="the activations are rotated, the weight is not",
    ),
    _l(
        name="linear-static-scale-ignored",
        old="global_scale=self.input_global_scale,",
        new="global_scale=None,",
        bug="the static global scale of the input is ignored",
    ),
    _l(
        name="linear-global-scale-in-bf16",
        old="            if scale is not None and (moved := getattr(self, name)).dtype != torch.float32:\n",
        new="            if scale is None and (moved := getattr(self, name)).dtype != torch.float32:\n",
        bug=".half() rounds the global scales",
        dies="TypeError",
    ),
    _l(
        name="linear-leading-axes-lost",
        old="return y.reshape(*x.shape[:-1], self.out_features)",
        new="return y",
        bug="inputs of three axes come back with two",
    ),
    _l(
        name="linear-other-rotation-loaded",
        old="        if saved != self._meaning():\n",
        new="        if False:\n",
        bug="a state dict of another rotation is loaded",
    ),
    _l(
        name="linear-output-in-bf16",
        old="out_dtype=x.dtype)",
        new="out_dtype=torch.float16)",
        bug="the output has another dtype than the input",
    ),
    # --- bytes
    _f(
        name="memory-scales-by-rotation",
        old="return (*lead, k // self.block)",
        new="return (*lead, k // max(self.block, *self.hadamard, 1))",
        bug="scales are counted by the Hadamard size instead of the block",
        dies="ValueError",
    ),
    _f(
        name="memory-global-scale-forgotten",
        old="+ self.scale_count(shape) * self.scale_bytes + 4 * tops",
        new="+ self.scale_count(shape) * self.scale_bytes",
        bug="the global scale is not counted",
    ),
    _f(
        name="memory-zero-points-forgotten",
        old='(4 if self.scale == "fp32" else 1) + (0 if self.symmetric else 4)',
        new='4 if self.scale == "fp32" else 1',
        bug="zero points are not counted",
    ),
    _m(
        name="memory-saving-of-ratio",
        old="return 1 - self.bytes / self.plain_bytes",
        new="return 1 - self.plain_bytes / self.bytes",
        bug="the saving is that of the inverse ratio",
    ),
    _m(
        name="memory-against-32-bits",
        old="fmt.name, 2 * n * k, fmt.nbytes((n, k))",
        new="fmt.name, 4 * n * k, fmt.nbytes((n, k))",
        bug="savings are against fp32 instead of 16 bits",
    ),
    # --- dispatch
    _a(
        name="api-unknown-backend",
        old="    if backend not in BACKENDS:\n",
        new="    if False:\n",
        bug="a misspelt backend falls back to another",
        check="refusals",
    ),
)
