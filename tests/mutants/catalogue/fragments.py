"""Bugs in the layouts of prepared weights: FP4 as fragments, and MXFP4 folded into E4M3."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_f = partial(Mutant, file="qkernels/triton/fp4_fragments.py")
_d = partial(Mutant, file="qkernels/triton/mxfp4_folded.py")

MUTANTS = (
    # --- fragments
    _f(
        "frag-rows-and-k-exchanged",
        "s, h = register % 2, register // 2",
        "h, s = register % 2, register // 2",
        "the register of row g + 8 holds k + 8",
        "fragments",
    ),
    _f(
        "frag-halves-exchanged",
        "<< (16 * half + place)",
        "<< (16 - 16 * half + place)",
        "k and k + 1 lie in each other's half of a word",
        "fragments",
    ),
    _f(
        "frag-chunks-before-rows",
        "v.permute(0, 3, 2, 4, 1).reshape(tiles, chunks, 16 * blocks)",
        "v.permute(0, 3, 2, 1, 4).reshape(tiles, chunks, 16 * blocks)",
        "the scale of row g + 8 is taken as that of the next block",
        "fragments",
    ),
    _f(
        "frag-sign-of-scales-lost",
        "codes ^= (scale >> 7 << 3)",
        "codes ^= (scale * 0)",
        "a negative scale is taken as positive",
        "fragments",
    ),
    _f(
        "frag-subnormal-scales-halved",
        "((14 - shift) << 3)",
        "((13 - shift) << 3)",
        "subnormal scales of NVFP4 are half as large",
        "fragments",
    ),
    _f(
        "frag-nan-scale-lost",
        "return torch.where(byte == 0x7F, 0xFF, found), zero",
        "return found, zero",
        "a NaN scale becomes a number",
        "stream-scales",
    ),
    _f(
        "frag-zero-scale-kept",
        "torch.where(zero, 8, 15)",
        "torch.where(zero, 15, 15)",
        "a block with the scale zero becomes one with 2^-9",
        "fragments",
    ),
    _f(
        "frag-base-doubled",
        "base, unit = shift // 2, 2.0",
        "base, unit = shift, 2.0",
        "MXFP4 scales in bf16 are off by a power of two",
        "unpack",
    ),
    _f(
        "frag-unit-doubled",
        "_NVFP4_BASE, _NVFP4_UNIT = 112, 2.0**8",
        "_NVFP4_BASE, _NVFP4_UNIT = 112, 2.0**9",
        "products with NVFP4 are twice as large",
        "stream",
    ),
    _f(
        "frag-gain-forgotten",
        "unit / w.format.gain,",
        "unit,",
        "products with abs_max weights are three times as large",
        "stream",
    ),
    _f(
        "frag-spread-one-too-wide",
        "if low + shift < 121:",
        "if low + shift < 120:",
        "weights are taken whose least ones lose a bit",
        "fragments",
    ),
    _f(
        "frag-global-scale-lost",
        "        w.global_scale,\n        w.hadamard,\n",
        "        None,\n        w.hadamard,\n",
        "the global scale of the weights is not kept",
        "stream",
    ),
    _f(
        "frag-dense-scale-doubled",
        "(whole >> 3) - 21)",
        "(whole >> 3) - 20)",
        "what says the meaning of fragments is off by two",
        "prepared",
    ),
    # --- folded weights and rows
    _d(
        "folded-against-the-smallest",
        "largest = torch.where(used, scale, 0).amax(-1)",
        "largest = torch.where(used, scale, 255).amin(-1)",
        "distances are to the smallest scale of a row",
        "folded",
    ),
    _d(
        "folded-negative-zeros-count",
        "used = (codes & 7 != 0).any(-1)",
        "used = (codes != 0).any(-1)",
        "the scale of a block of zeros counts if one is negative",
        "folded",
        dies="Unsupported",
    ),
    _d(
        "folded-factor-doubled",
        "dtype=torch.float32), largest - 133)",
        "dtype=torch.float32), largest - 132)",
        "folded operands are twice as large",
        "folded",
    ),
    _d(
        "folded-spread-one-too-wide",
        "if limit is not None and int(d.max() if d.numel() else 0) > limit:",
        "if limit is not None and int(d.max() if d.numel() else 0) > limit + 1:",
        "scales 2^12 apart are taken, for which the kernel has no factor",
        "folded",
    ),
    _d(
        "folded-rows-and-k-exchanged",
        ".permute(0, 3, 4, 2, 7, 5, 1, 6, 8)",
        ".permute(0, 3, 4, 2, 7, 1, 5, 6, 8)",
        "the word of row g + 8 holds the next 32 of K",
        "folded",
    ),
    _d(
        "folded-signs-beside-magnitudes",
        "((code >> 3) << _SIGN[index])",
        "((code >> 3) << (4 * index + 3))",
        "signs stay in their nibbles",
        "folded",
    ),
    _d(
        "folded-spread-of-the-other-row",
        ".view(tiles, 2, 8, chunks, 4).permute(0, 3, 2, 4, 1)\n    return",
        ".view(tiles, 2, 8, chunks, 4).permute(0, 3, 2, 1, 4)\n    return",
        "distances of two rows and four blocks are in another order",
        "folded",
    ),
    _d(
        "folded-gain-of-rows-lost",
        "_power(largest), q.format.gain, q.hadamard)\n\n\ndef fold_weights",
        "_power(largest), 1.0, q.hadamard)\n\n\ndef fold_weights",
        "products with abs_max activations are three times as large",
        "prepared",
    ),
    _d(
        "folded-nan-lost",
        "elements = torch.where((q.scale == 255)[..., None], torch.nan, elements).view(q.shape)",
        "elements = elements.view(q.shape)",
        "a block of NaN becomes numbers",
        "folded",
    ),
)
