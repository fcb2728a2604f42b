"""Bugs in products whose result is quantized, and in layers that hand it on."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_e = partial(Mutant, file="qkernels/triton/quantizing_epilogue.py")
_f = partial(Mutant, file="qkernels/triton/mxfp4_fold_codes.py")
_o = partial(Mutant, file="qkernels/quantized_ops.py")
_p = partial(Mutant, file="qkernels/prepared.py")
_l = partial(Mutant, file="qkernels/prepared_linear.py")
_r = partial(Mutant, file="qkernels/triton/quantized_result.py")

MUTANTS = (
    # --- a block's arithmetic
    _e(
        "epilogue-global-scale-of-scales-alone",
        "        size = size * gs\n",
        "        size = size * 1.0\n",
        "codes are not multiplied by the global scale, as their scales are",
        "epilogue",
    ),
    _e(
        "epilogue-gain-forgotten",
        'gain: tl.constexpr = 3.0 if RULE == "abs_max" else 1.0',
        "gain: tl.constexpr = 1.0",
        "codes of abs_max are a third",
        "epilogue",
    ),
    _e(
        "epilogue-signs-lost",
        "return codes_of(size, gain) | top_sign_word(tl.reshape(y, (PARTS, 8))), byte, coded",
        "return codes_of(size, gain), byte, coded",
        "results have no sign",
        "epilogue",
    ),
    _e(
        "epilogue-infinities-encoded",
        "coded = amax_bits < 0x7F800000",
        "coded = amax_bits <= 0x7F800000",
        "a block with an infinity is not NaN",
        "epilogue",
    ),
    _e(
        "epilogue-scale-of-nan",
        "byte = tl.where(coded, scale, 0xFF)",
        "byte = scale",
        "a block that is not finite has a number for its scale",
        "epilogue",
    ),
    _e(
        "epilogue-scales-inverted-twice",
        "(254 - scale) << 23",
        "scale << 23",
        "codes are multiplied by their scale instead of divided",
        "epilogue",
    ),
    # --- where it goes
    _e(
        "epilogue-halves-exchanged",
        "write_quantized(second, codes_ptr, scales_ptr, gs, row + ROWS // 2,",
        "write_quantized(second, codes_ptr, scales_ptr, gs, row + ROWS,",
        "the second half of a tile is written a tile further down",
        "epilogue-places",
    ),
    _e(
        "epilogue-rows-past-the-last",
        "(rows < m).expand_dims(1) & (column",
        "(rows <= m).expand_dims(1) & (column",
        "codes are written for a row after the last",
        "epilogue-places",
    ),
    _e(
        "epilogue-codes-past-the-row",
        "(column // BLOCK + word // WORDS < n // BLOCK)",
        "(column // BLOCK + word // WORDS <= n // BLOCK)",
        "codes of a tile that N leaves over are written over the next row's",
        "epilogue-places",
    ),
    _e(
        "epilogue-scales-past-the-row",
        "(block < n // BLOCK)",
        "(block <= n // BLOCK)",
        "scales of a tile that N leaves over are written over the next row's",
        "epilogue-places",
    ),
    _e(
        "epilogue-blocks-along-m",
        "held.permute(1, 0)",
        "held.permute(0, 1)",
        "blocks run down the rows of the result",
        "epilogue-places",
    ),
    _e(
        "epilogue-codes-of-the-first-tile",
        "target + (column // BLOCK * WORDS + word)",
        "target + (word)",
        "every tile's codes go to the first columns",
        "epilogue-places",
    ),
    _e(
        "epilogue-zeros-left-out",
        "gl.where(coded.expand_dims(1), words, 0)",
        "words",
        "blocks that are not encoded keep codes",
        "epilogue-places",
    ),
    _e(
        "epilogue-scales-of-another-row",
        "(rows.to(gl.int64) * (n // BLOCK)).expand_dims(1)",
        "(rows.to(gl.int64) * (n // 16)).expand_dims(1)",
        "rows of MXFP4's scales are twice as far apart",
        "epilogue-places",
        dies="IndexError",
    ),
    _r(
        "epilogue-result-of-nobody",
        'return "nvfp4" if into.format.scale == "e4m3" else into.format.rule',
        'return "nvfp4" if into.format.scale == "e4m3" else "floor"',
        "every rule of MXFP4 is floor",
        "epilogue",
    ),
    # --- folding codes
    _f(
        "fold-codes-zeros-count",
        "used = finite & (tl.max((words & 0x77777777 != 0).to(tl.int32), axis=1) > 0)",
        "used = finite",
        "a block of zeros makes the others of its row small",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-minus-zero-counts",
        "words & 0x77777777 != 0",
        "words != 0",
        "a block of minus zeros makes the others of its row small",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-nan-counts",
        "used = finite & (tl",
        "used = (scale >= 0) & (tl",
        "a block of NaN makes the others of its row small",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-nan-is-a-number",
        "tl.where(finite, low, 0x7F7F7F7F)",
        "low",
        "a block of NaN is a number",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-table-off",
        "magnitude(12, factor, 24)",
        "magnitude(10, factor, 24)",
        "6 becomes 5",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-doubled",
        "factor = ((133 - tl.minimum(d, 30)) << 23)",
        "factor = ((134 - tl.minimum(d, 30)) << 23)",
        "elements are twice as large",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-words-exchanged",
        "tl.join(first, second)",
        "tl.join(second, first)",
        "fours of elements change places",
        "fold-codes-of",
    ),
    _f(
        "fold-codes-factor-halved",
        "below = ((half + 61) << 23)",
        "below = ((half + 60) << 23)",
        "rows are half as large",
        "fold-codes-of",
    ),
    # --- operators and what callers get
    _o(
        "quantized-rounded-to-bf16-first",
        "bias, unit, factor, format, n, torch.float32\n",
        "bias, unit, factor, format, n, torch.bfloat16\n",
        "the product is rounded to bf16 before it is quantized",
        "quantized-products",
    ),
    _o(
        "quantized-folded-bias-dropped",
        "y = round_to(y if bias is None else y + bias, torch.float32)",
        "y = round_to(y, torch.float32)",
        "the bias is not added to folded products",
        "quantized-products",
    ),
    _o(
        "quantized-folded-in-bf16",
        "y = round_to(y if bias is None else y + bias, torch.float32)",
        "y = round_to(y if bias is None else y + bias, torch.bfloat16)",
        "folded products are rounded to bf16 before they are quantized",
        "quantized-products",
    ),
    _o(
        "quantized-fold-refuses",
        "(len(data), 2 * data.shape[1])), exact=False)",
        "(len(data), 2 * data.shape[1])))",
        "results whose scales are far apart are an error",
        "quantized-products",
        dies="Unsupported",
    ),
    _o(
        "quantized-any-n",
        "if n % fmt.block:",
        "if n % 16:",
        "results in MXFP4 of N that is no multiple of 32 are taken",
        "quantized-products",
    ),
    _o(
        "quantized-without-a-scale",
        "if (fmt.levels == 2) != (global_scale is not None):",
        "if fmt.levels == 2 and global_scale is None:",
        "a global scale of a format of one level is ignored",
        "quantized-products",
    ),
    _o(
        "quantized-scale-of-any-dtype",
        "if global_scale.dtype != torch.float32 or global_scale.numel() != 1:",
        "if global_scale.numel() != 1:",
        "a global scale in float64 is read as fp32",
        "quantized-products",
    ),
    _p(
        "quantized-gain-lost",
        "return FoldedRows(elements, factor, x.format.gain, x.hadamard)",
        "return FoldedRows(elements, factor, 1.0, x.hadamard)",
        "folded activations of abs_max are three times too large",
        "quantized-products",
    ),
    _l(
        "quantized-layer-scale-lost",
        "product(rows, w, gs, ops.row_unit(fmt), self.bias, out)",
        "product(rows, w, None, ops.row_unit(fmt), self.bias, out)",
        "a layer does not divide by the global scale of the activations it is handed",
        "quantized-layers",
    ),
    _l(
        "quantized-layer-rotation-not-compared",
        "if x.hadamard != self.hadamard:",
        "if False:",
        "a layer of rotated weights multiplies what is not rotated",
        "quantized-layers",
    ),
    _l(
        "quantized-layer-folded-gain-lost",
        "folded_product(elements, factor, fmt.gain, w, self.bias, out)",
        "folded_product(elements, factor, 1.0, w, self.bias, out)",
        "a folded layer multiplies activations of abs_max by three",
        "quantized-layers",
    ),
    _l(
        "quantized-layer-weights-only",
        'if self.activation != "w4a4":',
        "if False:",
        "a layer for 16-bit activations takes quantized ones",
        "quantized-layers",
    ),
    _l(
        "quantized-layer-scale-not-saved",
        'self.register_buffer("output_global_scale", None if result is None else result.global_scale)',
        "self.output_global_scale = None if result is None else result.global_scale",
        "the scale of the output is not in the state dict",
        "quantized-layers",
    ),
    _l(
        "quantized-layer-axes-lost",
        "return QTensor(data, scale, y.format, (*lead, self.out_features), y.global_scale)",
        "return y",
        "a quantized output has no leading axes",
        "quantized-layers",
    ),
)
