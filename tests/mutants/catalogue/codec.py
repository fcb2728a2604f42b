"""Bugs in the reference codecs, the scale swizzle and the reference rotation."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_c = partial(Mutant, file="qkernels/codec.py", check="codec")
_s = partial(Mutant, file="qkernels/swizzle.py", check="swizzle")
_h = partial(Mutant, file="qkernels/hadamard.py", check="hadamard")
_STARTS = "t if i % 2 else torch.nextafter(t, up)"

MUTANTS = (
    _c(
        name="ref-e2m1-ties-to-odd",
        old=_STARTS,
        new="torch.nextafter(t, up) if i % 2 else t",
        bug="ties of E2M1 go to the odd code",
    ),
    _c(name="ref-e2m1-ties-up", old=_STARTS, new="t", bug="every tie of E2M1 is rounded away from zero"),
    _c(
        name="ref-e2m1-ties-down",
        old=_STARTS,
        new="torch.nextafter(t, up)",
        bug="every tie of E2M1 is rounded toward zero",
    ),
    _c(
        name="ref-e2m1-double-rounding",
        old="    up = torch.tensor(math.inf, dtype=y.dtype)\n",
        new="    y = y.to(torch.float32)\n    up = torch.tensor(math.inf, dtype=y.dtype)\n",
        bug="float64 passes through fp32 on its way to E2M1",
    ),
    _c(
        name="ref-e2m1-negative-zero-lost",
        old="return magnitude | (torch.signbit(y).to(torch.uint8) << 3)",
        new="return magnitude | ((y < 0).to(torch.uint8) << 3)",
        bug="-0 becomes +0",
    ),
    _c(
        name="ref-e2m1-table",
        old="E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)",
        new="E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)",
        bug="the largest E2M1 number is 5",
    ),
    _c(
        name="ref-pack-nibbles-swapped",
        old="return codes[..., 0::2] | (codes[..., 1::2] << 4)",
        new="return codes[..., 1::2] | (codes[..., 0::2] << 4)",
        bug="the even element is packed into the high nibble",
    ),
    _c(
        name="ref-pack-halves",
        old="return codes[..., 0::2] | (codes[..., 1::2] << 4)",
        new="half = codes.shape[-1] // 2\n    return codes[..., :half] | (codes[..., half:] << 4)",
        bug="the first half of a row is packed with the second",
    ),
    _c(
        name="ref-unpack-nibbles-swapped",
        old="torch.stack([data & 0xF, data >> 4], dim=-1)",
        new="torch.stack([data >> 4, data & 0xF], dim=-1)",
        bug="the even element is read from the high nibble",
    ),
    _c(
        name="ref-float-not-clamped",
        old="wide.abs().clamp_(max=element.max))",
        new="wide.abs())",
        bug="numbers beyond the largest are not clamped: NaN, or they wrap",
    ),
    _c(
        name="ref-float-subnormal-quantum",
        old="clamp_(min=element.emin)",
        new="clamp_(min=element.emin - 1)",
        bug="subnormals are rounded with half their quantum",
    ),
    _c(
        name="ref-float-truncated",
        old="    if noise is None:\n        return torch.round(y)",
        new="    if noise is None:\n        return torch.floor(y)",
        bug="codes are truncated",
    ),
    _c(
        name="ref-float-half-up",
        old="    if noise is None:\n        return torch.round(y)",
        new="    if noise is None:\n        return torch.floor(y + 0.5)",
        bug="ties of FP8 codes are rounded up",
    ),
    _c(
        name="ref-float-nan-finite",
        old="_NAN = {E4M3: 0x7F, E5M2: 0x7F}",
        new="_NAN = {E4M3: 0x7E, E5M2: 0x7F}",
        bug="NaN becomes 448",
    ),
    _c(
        name="ref-float-nan-with-sign",
        old="(torch.signbit(wide) & ~nan)",
        new="torch.signbit(wide)",
        bug="NaN keeps a sign: two bytes for one value",
    ),
    _c(
        name="ref-float-subnormal-decoded-zero",
        old="whole = fraction + ((1 << element.mantissa) if exponent else 0)",
        new="whole = (fraction + (1 << element.mantissa)) if exponent else 0",
        bug="subnormals are decoded as 0",
    ),
    _c(
        name="ref-float-subnormal-exponent",
        old="max(exponent, 1) - 1 + element.emin",
        new="exponent - 1 + element.emin",
        bug="subnormals are decoded with the exponent below theirs",
    ),
    _c(
        name="ref-e8m0-byte-zero",
        old="torch.where(bits == E8M0_NAN, math.nan, pow2(bits.to(torch.int64) - 127))",
        new="torch.where(bits == E8M0_NAN, math.nan, pow2(bits.to(torch.int64) - 127) * (bits > 0))",
        bug="E8M0 byte 0 is decoded as 0 instead of 2^-127",
    ),
    _c(
        name="ref-e8m0-byte-255",
        old="torch.where(bits == E8M0_NAN, math.nan, pow2(bits.to(torch.int64) - 127))",
        new="pow2(bits.to(torch.int64) - 127)",
        bug="E8M0 byte 255 is decoded as a number instead of NaN",
    ),
    _c(
        name="ref-e8m0-produces-nan",
        old=".clamp_(0, 254).to(torch.uint8)",
        new=".clamp_(0, 255).to(torch.uint8)",
        bug="an exponent of 128 is encoded as NaN",
    ),
    _c(
        name="ref-e8m0-bias",
        old="(exponent.to(torch.int64) + 127).clamp_",
        new="(exponent.to(torch.int64) + 126).clamp_",
        bug="E8M0 has the bias 126",
    ),
    _c(
        name="ref-float-log2",
        old="    return (bits >> 52) - 1023 - 64 * small.to(torch.int64)",
        new="    return torch.floor(torch.log2(wide)).clamp(-1087, 1024).nan_to_num(1024.0).to(torch.int64)",
        bug="the exponent comes from a float log2",
    ),
    _c(
        name="ref-round-twice",
        old="    digits, least = _SIGNIFICAND[dtype]\n",
        new="    return x.to(dtype)\n    digits, least = _SIGNIFICAND[dtype]\n",
        bug="float64 is cast to bf16 by the framework, through fp32",
    ),
    _c(
        name="ref-round-subnormals",
        old="floor_log2(x).clamp_(least, 1000)",
        new="floor_log2(x).clamp_(-1000, 1000)",
        bug="subnormals of bf16 and fp16 are rounded twice",
    ),
    _c(
        name="ref-stochastic-always-down",
        old="return below + (noise < y - below)",
        new="return below",
        bug="stochastic rounding leaves nothing to chance",
    ),
    # --- swizzle
    _s(
        name="swizzle-tiles-transposed",
        old="reshape(tall, 4, 32, wide, 4).permute(0, 3, 2, 1, 4)",
        new="reshape(tall, 4, 32, wide, 4).permute(3, 0, 2, 1, 4)",
        bug="tiles are stored column by column",
    ),
    _s(
        name="swizzle-rows-within-a-tile",
        old="reshape(tall, 4, 32, wide, 4).permute(0, 3, 2, 1, 4)",
        new="reshape(tall, 32, 4, wide, 4).permute(0, 3, 1, 2, 4)",
        bug="rows are r//4 and r%4 of a tile instead of r%32 and r//32",
    ),
    _s(
        name="swizzle-padding-poison",
        old="(0, wide * 4 - cols, 0, tall * 128 - rows))",
        new="(0, wide * 4 - cols, 0, tall * 128 - rows), value=0x7F)",
        bug="the padding holds NaN instead of zeros",
    ),
    _s(
        name="swizzle-flat-into-padded",
        old="    tiles = padded.reshape(tall, 4, 32, wide, 4).permute(0, 3, 2, 1, 4)"
        "  # [tall, wide, r%32, r%128//32, c%4]\n",
        new="    tiles = pad(scale.view(torch.uint8).reshape(-1), (0, padded.numel() - scale.numel()))\n",
        bug="scales are written flat into the padded buffer",
    ),
    _s(
        name="swizzle-canonicalises-nan",
        old="padded = pad(scale.view(torch.uint8), ",
        new="padded = pad(scale.view(torch.float8_e5m2).float().to(torch.float8_e5m2).view(torch.uint8), ",
        bug="scale bytes pass through a float type, which canonicalises its NaN",
    ),
    _s(
        name="unswizzle-of-padded-shape",
        old="[:rows, :cols].contiguous()",
        new=".reshape(-1)[: rows * cols].reshape(rows, cols).contiguous()",
        bug="the inverse reads rows of the padded width: padding reaches the result",
    ),
    _s(
        name="unswizzle-size-not-checked",
        old="    if flat.numel() != tall * wide * 512 or flat.element_size() != 1:\n",
        new="    flat = flat.repeat(tall * wide * 512 // flat.numel())\n    if False:\n",
        bug="a buffer of another shape is taken",
    ),
    # --- rotation
    _h(
        name="ref-hadamard-not-sylvester",
        old="torch.cat([matrix, -matrix], 1)",
        new="torch.cat([-matrix, matrix], 1)",
        bug="another matrix of +1 and -1, not the Sylvester one",
    ),
    _h(
        name="ref-rotation-not-normalised",
        old="    y = (y / math.sqrt(n)).flatten(-2)\n",
        new="    y = y.flatten(-2)\n",
        bug="the factor 1/sqrt(n) is missing",
    ),
    _h(
        name="ref-rotation-normalised-in-bf16",
        old="(y / math.sqrt(n))",
        new="(y * float(torch.tensor(n**-0.5, dtype=torch.bfloat16)))",
        bug="1/sqrt(n) is rounded to bf16",
    ),
    _h(
        name="ref-rotation-in-bf16",
        old="compute = torch.float64 if dtype == torch.float64 else torch.float32",
        new="compute = dtype",
        bug="sums of a rotation are rounded to bf16",
    ),
    _h(
        name="ref-rotation-last-stage-missing",
        old="    while half < n:\n",
        new="    while half < n // 2:\n",
        bug="the last butterfly is missing",
    ),
    _h(
        name="ref-rotation-sign",
        old="torch.stack([low + high, low - high], dim=-2)",
        new="torch.stack([low + high, high - low], dim=-2)",
        bug="the butterfly subtracts the wrong way round",
    ),
    _h(
        name="ref-rotation-across-rows",
        old='    if k % n:\n        raise ValueError(\n            f"K = {k} is not a multiple of the Hadamard size',
        new='    if 0:\n        raise ValueError(\n            f"K = {k} is not a multiple of the Hadamard size',
        bug="K that is no multiple of n is taken",
        dies="RuntimeError",
    ),
)
