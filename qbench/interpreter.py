"""Triton's CPU interpreter (TRITON_INTERPRET=1), made right where the stock one is wrong.

What `repair()` changes, and the failure each change prevents (Triton 3.6.0 and 3.7.1):

- fp32/fp16/bf16 -> e4m3/e5m2: the stock cast rounds ties away and wraps above the maximum (500 -> 256). Now
  round to nearest even with saturation, as `cvt.rn.satfinite` does; NaN becomes 0x7f.
- fp32 -> bf16 truncates. Now round to nearest even. Integers -> bf16 gave the integer's own bits.
- bf16 arithmetic, comparison and dot worked on raw bits. Now on values, rounded once per operation.
- `tl.full(..., tl.bfloat16)` lacked its constant; `tl.fma` rounded twice; `tl.maximum` and `tl.minimum`
  propagated NaN, which the GPU's default does not.
- A comparison kept its operands' dtype, so that a scalar condition became a mask of integers.
- `range(tensor)` is a TypeError on Triton 3.6 with numpy >= 2.4.
- A masked load or store outside every argument's memory went unnoticed. Now it is an IndexError.
- numpy's warnings for inf and NaN, which a GPU does not raise, are silenced inside a kernel.
- Patching `triton.language` anew in every device function is skipped, and so is computing the operands of
  overflow assertions that are off unless debugging; that was most of the time.

`dot_scaled`, inline assembly and libdevice stay unsupported, with Triton's own error.
Triton, torch and numpy are imported when `repair()` is called, so importing this module costs nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

_SATURATE_AT = {"fp8e4nv": 448.0, "fp8e5": 57344.0}
_FLOAT8_NAN = 0x7F


def repair() -> None:
    """Patch the interpreter of the imported Triton. Calling it again does nothing."""
    from triton.runtime import interpreter

    if getattr(interpreter, "_qbench_repaired", False):
        return
    _repair_casts(interpreter)
    _repair_operators(interpreter)
    _repair_language_patching(interpreter)
    _repair_memory(interpreter)
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=builder.options.debug)
    interpreter._qbench_repaired = True


def _is_encoded(dtype: Any) -> bool:
    """Types whose numpy data are raw bits: bf16 as uint16, e4m3 and e5m2 as uint8."""
    return dtype.name == "bf16" or dtype.name in _SATURATE_AT


def _decode(data: Any, dtype: Any) -> Any:
    """Raw bits to float32 values; anything numpy understands is returned as it is."""
    import numpy as np
    import torch

    if not _is_encoded(dtype) or data.dtype == np.bool_:
        return data
    if dtype.name == "bf16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    kind = torch.float8_e4m3fn if dtype.name == "fp8e4nv" else torch.float8_e5m2
    table = torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    return table[data]


def _encode(values: Any, dtype: Any) -> Any:
    """Values to the numpy data of `dtype`, rounded to nearest even."""
    import numpy as np
    import torch
    from triton.runtime.interpreter import _get_np_dtype

    if not _is_encoded(dtype):
        return values.astype(_get_np_dtype(dtype))
    source = torch.from_numpy(np.array(values, dtype=np.float32))  # a copy: broadcast data are read-only
    if dtype.name == "bf16":
        return source.to(torch.bfloat16).view(torch.uint16).numpy()
    limit = _SATURATE_AT[dtype.name]
    kind = torch.float8_e4m3fn if dtype.name == "fp8e4nv" else torch.float8_e5m2
    bits = source.clamp(-limit, limit).to(kind).view(torch.uint8)
    return torch.where(source.isnan(), torch.full_like(bits, _FLOAT8_NAN), bits).numpy()


def _repair_casts(interpreter: Any) -> None:
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_cast, stock_fp_to_fp = builder.cast_impl, builder.create_fp_to_fp
    toward_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        have, want = src.dtype.scalar, dst_type.scalar
        if not (_is_encoded(have) or _is_encoded(want)):
            return stock_cast(self, src, dst_type)
        return handle(_encode(_decode(src.data, have), want), want)

    def fp_to_fp(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        have, want = src.dtype.scalar, dst_type.scalar
        if rounding == toward_zero or not (_is_encoded(have) or _is_encoded(want)):
            return stock_fp_to_fp(self, src, dst_type, rounding)
        return handle(_encode(_decode(src.data, have), want), want)

    def constant(self: Any, value: float) -> Any:
        import numpy as np
        import triton.language as tl

        return handle(_encode(np.array([value]), tl.bfloat16), tl.bfloat16)

    builder.cast_impl = cast
    builder.create_fp_to_fp = fp_to_fp
    builder.get_bf16 = constant


def _repair_operators(interpreter: Any) -> None:
    import numpy as np
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_binary, stock_ternary, stock_unary = builder.binary_op, builder.ternary_op, builder.unary_op

    def binary(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        dtype = lhs.dtype.scalar
        if not _is_encoded(dtype):
            result = stock_binary(self, lhs, rhs, op)
            return handle(result.data, tl.int1) if result.data.dtype == np.bool_ else result
        value = op(_decode(lhs.data, dtype), _decode(rhs.data, dtype))
        return handle(value, tl.int1) if value.dtype == np.bool_ else handle(_encode(value, dtype), dtype)

    def ternary(self: Any, lhs: Any, rhs: Any, other: Any, op: Any) -> Any:
        dtype = other.dtype.scalar
        if op is np.where or not _is_encoded(dtype):  # a selection moves bits and rounds nothing
            return stock_ternary(self, lhs, rhs, other, op)
        result = op(*(_decode(each.data, dtype) for each in (lhs, rhs, other)))
        return handle(_encode(result, dtype), dtype)

    def unary(self: Any, arg: Any, op: Any) -> Any:
        dtype = arg.dtype.scalar
        if not _is_encoded(dtype):
            return stock_unary(self, arg, op)
        return handle(_encode(op(_decode(arg.data, dtype)), dtype), dtype)

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        # Products of two fp32 are exact in float64; its sum is rounded to 53 bits, then once more to fp32.
        dtype = z.dtype.scalar
        x64, y64, z64 = (_decode(each.data, dtype).astype(np.float64) for each in (x, y, z))
        return handle(_encode(x64 * y64 + z64, dtype), dtype)

    def dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        product = np.matmul(
            _decode(a.data, a.dtype.scalar), _decode(b.data, b.dtype.scalar), dtype=d.data.dtype
        )
        return handle(product + d.data, d.dtype.scalar)

    builder.binary_op = binary
    builder.ternary_op = ternary
    builder.unary_op = unary
    builder.create_fma = fma
    builder.create_dot = dot
    builder.create_maxnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmax)
    builder.create_minnumf = lambda self, lhs, rhs: self.binary_op(lhs, rhs, np.fmin)


def _repair_language_patching(interpreter: Any) -> None:
    """Index with `.item()`, and patch each language module once a launch instead of once a function call."""
    stock_tensor, stock_lang = interpreter._patch_lang_tensor, interpreter._patch_lang
    stock_launch = interpreter.GridExecutor.__call__
    patched: set[int] = set()

    def patch_tensor(tensor: Any, scope: Any) -> None:
        stock_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def patch_lang(fn: Any) -> Any:
        known = (interpreter.tl, interpreter.tl.core)
        languages = {id(each) for each in fn.__globals__.values() if any(each is one for one in known)}
        if languages and languages <= patched:
            return interpreter._LangPatchScope()
        patched.update(languages)
        return stock_lang(fn)

    def launch(self: Any, *args: Any, **kwargs: Any) -> None:
        import numpy as np

        patched.clear()
        try:
            with np.errstate(all="ignore"):
                stock_launch(self, *args, **kwargs)
        finally:
            patched.clear()

    interpreter._patch_lang_tensor = patch_tensor
    interpreter._patch_lang = patch_lang
    interpreter.GridExecutor.__call__ = launch


def _repair_memory(interpreter: Any) -> None:
    """Refuse masked-in addresses that lie in no argument of the running kernel."""
    import numpy as np

    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    stock_load, stock_store = builder.create_masked_load, builder.create_masked_store
    stock_arguments = executor._init_args_hst
    spans: list[tuple[int, int]] = []

    def remember(value: Any) -> None:
        if isinstance(value, tuple):
            for each in value:
                remember(each)
        elif hasattr(value, "base"):  # a tensor descriptor, or a tensor wrapped for another dtype
            remember(value.base)
        elif hasattr(value, "untyped_storage"):
            storage = value.untyped_storage()
            spans.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))

    def arguments(self: Any, args: Any, kwargs: Any) -> Any:
        on_host = stock_arguments(self, args, kwargs)
        spans.clear()
        remember((*on_host[0], *on_host[1].values()))
        return on_host

    def check(pointers: Any, mask: Any, verb: str) -> None:
        mask_data = np.broadcast_to(mask.data, pointers.data.shape)
        used = pointers.data[mask_data].astype(np.uint64)
        if used.size == 0:
            return
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        outside = np.ones(used.shape, dtype=bool)
        for start, stop in spans:
            outside &= (used < start) | (used + np.uint64(size) > stop)
        if outside.any():
            raise IndexError(
                f"a kernel would {verb} {int(outside.sum())} of {used.size} elements outside its arguments' "
                "memory; mask them"
            )

    def load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        check(ptrs, mask, "load")
        return stock_load(self, ptrs, mask, *rest, **named)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        check(ptrs, mask, "store")
        return stock_store(self, ptrs, value, mask, *rest, **named)

    builder.create_masked_load = load
    builder.create_masked_store = store
    executor._init_args_hst = arguments
