"""The global encode scales of a product's x: one, or one for each row, as nvfp4_token has them.

Kernels take them as two pointers, x_gs_ptr and row_gs_ptr, of which one is None: what one scale compiles to knows
nothing of rows. Imports no Triton.
"""

from __future__ import annotations

from torch import Tensor, float32


def one_or_rows(scale: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(x_gs_ptr, row_gs_ptr) of x [M, K]: (scale, None) if it is one float32, (None, scale) if it is float32 [M, 1].

    One row's scale is one. ValueError for anything else.
    """
    if scale is None:
        return None, None
    m, one = x.shape[0], scale.numel() == 1
    if scale.dtype != float32 or not (one or (scale.shape == (m, 1) and scale.is_contiguous())):
        raise ValueError(
            f"x_global_scale is {scale.dtype} {list(scale.shape)} with strides {scale.stride()}; it must be one "
            f"float32, or one a row, float32 [{m}, 1]: use .float(), .reshape(-1, 1), .contiguous()"
        )
    if scale.device != x.device:
        raise ValueError(f"x_global_scale is on {scale.device} and x on {x.device}; move it there with .to()")
    return (scale, None) if one else (None, scale)
