"""Bugs in the exact quantizers: global scales, block scales, four-over-six, INT4."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_q = partial(Mutant, file="qkernels/quantize.py", check="reference")
_b = partial(Mutant, file="qkernels/quantize_block.py", check="blocks")

MUTANTS = (
    _q(
        name="ref-global-scale-inverted",
        old="divide(fmt.scale_max * fmt.element.max, amax).clamp(max=FLOAT32_MAX)",
        new="(amax / (fmt.scale_max * fmt.element.max)).clamp(max=FLOAT32_MAX)",
        bug="the dynamic global scale is the decode scale",
    ),
    _q(
        name="ref-global-scale-dropped",
        old="        gs = dynamic_global_scale(x, fmt, hadamard)\n",
        new="        gs = torch.ones_like(dynamic_global_scale(x, fmt, hadamard))\n",
        bug="the dynamic global scale is 1",
    ),
    _q(
        name="ref-global-scale-without-abs",
        old="size = torch.where(torch.isfinite(y), y.abs(), 0.0)",
        new="size = torch.where(torch.isfinite(y), y, 0.0)",
        bug="the global maximum is taken without abs",
    ),
    _q(
        name="ref-global-scale-of-bad-tensor",
        old="size = torch.where(torch.isfinite(y), y.abs(), 0.0)",
        new="size = y.abs()",
        bug="one NaN takes the whole tensor with it",
    ),
    _q(
        name="ref-global-scale-of-zeros",
        old="torch.where(amax > 0, gs, 1.0)",
        new="gs",
        bug="the global scale of a zero tensor is not 1",
    ),
    _q(
        name="ref-global-scale-of-tensor-for-rows",
        old="parts.append(size.amax(-1) if by_row else size.amax().reshape(1))",
        new="parts.append(size.amax().expand(len(size)) if by_row else size.amax().reshape(1))",
        bug="the global scale of each row is that of the tensor",
        check="blocks",
    ),
    _q(
        name="ref-chunk-overwrites-the-first",
        old="data[start : start + len(y)] = pack_e2m1(codes) if fmt.packed else codes",
        new="data[: len(y)] = pack_e2m1(codes) if fmt.packed else codes",
        bug="every chunk of rows is written over the first",
    ),
    _q(
        name="ref-hadamard-not-applied",
        old="yield start, part if hadamard is None else rotate(part, hadamard, torch.float64)",
        new="yield start, part",
        bug="the rotation is not applied",
    ),
    # --- blocks
    _b(
        name="ref-scale-without-abs",
        old="encoded(blocks, gs).abs().amax(-1)",
        new="encoded(blocks, gs).amax(-1).clamp(min=0)",
        bug="the block maximum is taken without abs",
        check="reference",
    ),
    _b(
        name="ref-codes-without-global-scale",
        old="torch.where(decoded > 0, encoded(blocks, gs) / decoded, 0.0)",
        new="torch.where(decoded > 0, blocks / decoded, 0.0)",
        bug="the codes ignore the global scale",
        check="reference",
    ),
    _b(
        name="ref-zero-scale-divides",
        old="torch.where(decoded > 0, encoded(blocks, gs) / decoded, 0.0)",
        new="encoded(blocks, gs) / decoded",
        bug="a zero block is divided by its scale 0",
        check="reference",
    ),
    _b(
        name="ref-min-scale-ignored",
        old="(t * factor).clamp(min=fmt.min_scale)",
        new="(t * factor)",
        bug="the least block scale is not applied",
    ),
    _b(
        name="ref-nonfinite-block-finite",
        old="scale.masked_fill(bad, _NAN_SCALE[fmt.scale])",
        new="scale",
        bug="a block with NaN or inf keeps some scale",
        check="reference",
    ),
    _b(
        name="ref-four-over-six-not-strict",
        old="FOUR_OVER_SIX = 1.5",
        new="FOUR_OVER_SIX = 1.25",
        bug="the second candidate maps the block maximum to 4.8",
    ),
    _b(
        name="ref-four-over-six-measure",
        old='(off.square() if fmt.select == "mse" else off).sum(-1)',
        new="off.square().sum(-1)",
        bug="four-over-six by absolute error chooses by squared error",
    ),
    _b(
        name="ref-four-over-six-without-scale",
        old="value = decode_float(codes, fmt.element) * decode_scale(scale, fmt).unsqueeze(-1)",
        new="value = decode_float(codes, fmt.element) * decode_scale(scale, fmt).amax()",
        bug="the error of a candidate is that under another block's scale",
    ),
    _b(
        name="ref-tile-transposed",
        old="tiles = y.reshape(len(y) // fmt.block_rows, fmt.block_rows, columns, fmt.block).transpose(1, 2)",
        new="tiles = y.reshape(len(y) // fmt.block_rows, columns, fmt.block_rows, fmt.block)",
        bug="a 2-D block is made of the wrong elements",
    ),
    _b(
        name="ref-int4-not-clamped",
        old="code.nan_to_num(0.0).clamp(element.least, element.greatest)",
        new="code.nan_to_num(0.0)",
        bug="INT4 codes wrap around",
    ),
    _b(
        name="ref-int4-range-without-zero",
        old="blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)",
        new="blocks.amin(-1), blocks.amax(-1)",
        bug="the range of asymmetric INT4 need not hold zero: constant groups are lost",
    ),
    _b(
        name="ref-int4-zero-point-sign",
        old="-low / scale",
        new="low / scale",
        bug="the zero point of INT4 has the wrong sign",
    ),
)
