"""The repaired Triton interpreter against torch and against exhaustive enumeration.

Where there is a GPU the same kernels run compiled, so that the interpreter is held to what the hardware does.
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import qbench.interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = triton.knobs.runtime.interpret
FLOAT8 = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}

needs_float8 = pytest.mark.skipif(
    DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0),
    reason="before sm_90 Triton's fp8 casts are missing or round twice",
)
interpreted_only = pytest.mark.skipif(
    not INTERPRETED, reason="tests the interpreter; Triton is compiling here"
)


@pytest.fixture(scope="module", autouse=True)
def repaired() -> None:
    if INTERPRETED:
        qbench.interpreter.repair()


@triton.jit
def cast_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at).to(out_ptr.dtype.element_ty))


@triton.jit
def operate_kernel(a_ptr, b_ptr, out_ptr, less_ptr, OPERATION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    if OPERATION == "add":
        out = a + b
    elif OPERATION == "subtract":
        out = a - b
    elif OPERATION == "multiply":
        out = a * b
    else:
        out = tl.where(a < b, a, b)
    tl.store(out_ptr + at, out)
    tl.store(less_ptr + at, (a < b).to(tl.int32))


@triton.jit
def dot_kernel(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(out_ptr + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision="ieee"))


@triton.jit
def sum_kernel(x_ptr, out_ptr, length, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + at, mask=at < length, other=0.0)
    tl.store(out_ptr, tl.sum(total, 0))


@triton.jit
def off_by_one_kernel(x_ptr, out_ptr, length, READ: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < length + READ, other=0.0)
    tl.store(out_ptr + at, x, mask=at < length + 1 - READ)


@triton.jit
def fma_and_maximum_kernel(x_ptr, y_ptr, z_ptr, fma_ptr, max_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x, y, z = tl.load(x_ptr + at), tl.load(y_ptr + at), tl.load(z_ptr + at)
    tl.store(fma_ptr + at, tl.fma(x, y, z))
    tl.store(max_ptr + at, tl.maximum(x, y))


@triton.jit
def constant_kernel(out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.full((BLOCK,), 1.7, tl.bfloat16) + (at + 100).to(tl.bfloat16))


@triton.jit
def scalar_condition_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    positive = tl.load(x_ptr) > 0.0
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=(at < BLOCK) & positive, other=-1.0))


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=dtype, device=DEVICE)
    cast_kernel[(1,)](x.to(DEVICE), out, BLOCK=x.numel())
    return out.cpu()


def power_of_two_length(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.full((triton.next_power_of_2(x.numel()) - x.numel(),), 1.0)])


@needs_float8
@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.parametrize("wide", [torch.float32, torch.float16, torch.bfloat16])
def test_every_float8_code_is_decoded_as_torch_does(name: str, wide: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    if not INTERPRETED and (name, wide) == ("e5m2", torch.bfloat16):
        # compiled for sm_90, Triton 3.6 makes numbers of inf and NaN here
        codes = torch.where((codes & 0x7C) == 0x7C, 0, codes)
    codes = codes.view(FLOAT8[name][0])
    torch.testing.assert_close(cast(codes, wide), codes.to(wide), rtol=0, atol=0, equal_nan=True)


@needs_float8
@pytest.mark.parametrize("name", FLOAT8)
def test_float8_rounds_to_the_nearest_code_ties_to_even(name: str) -> None:
    dtype = FLOAT8[name][0]
    values = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    grid = values[values.isfinite() & (values >= 0)].unique()  # ascending; its index is the code
    halfway = (grid[:-1] + grid[1:]) / 2
    below, above = torch.nextafter(halfway, torch.zeros(1)), torch.nextafter(halfway, torch.tensor(1e9))
    index = torch.arange(grid.numel() - 1)
    x = torch.cat([grid, below, halfway, above])
    expected = torch.cat([grid, grid[index], grid[index + index % 2], grid[index + 1]])
    for sign in (1.0, -1.0):
        found = cast(power_of_two_length(sign * x), dtype).float()[: x.numel()]
        assert torch.equal(found, sign * expected)
        assert torch.equal(found.signbit(), (sign * x).signbit())  # keeps -0


@needs_float8
@pytest.mark.parametrize("name", FLOAT8)
def test_float8_saturates_and_keeps_nan(name: str) -> None:
    dtype, largest = FLOAT8[name]
    x = torch.tensor([largest * 1.04, largest * 1.2, 1e30, torch.inf, -torch.inf, -1e30, torch.nan, largest])
    found = cast(x, dtype).float()
    expected = torch.tensor([largest] * 4 + [-largest] * 2 + [torch.nan, largest])
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert int(cast(x, dtype).view(torch.uint8)[6]) == 0x7F


def test_bfloat16_casts_round_to_even_as_torch_does() -> None:
    bits = torch.arange(0x3F7F0000, 0x3F820000, 0x1000, dtype=torch.int32)  # many ties around 1.0
    x = torch.cat(
        [bits.view(torch.float32), torch.randn(1024, generator=torch.Generator().manual_seed(1)) * 1e3]
    )
    x = power_of_two_length(torch.cat([x, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, 3.4e38])]))
    assert torch.equal(cast(x, torch.bfloat16).view(torch.int16), x.to(torch.bfloat16).view(torch.int16))
    assert bool(cast(torch.tensor([torch.nan, 1.0]), torch.bfloat16)[0].isnan())
    integers = torch.arange(0, 512, dtype=torch.int32)
    assert torch.equal(cast(integers, torch.bfloat16), integers.to(torch.bfloat16))


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "smaller"])
def test_bfloat16_operations_round_once(operation: str) -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(512, generator=generator).to(torch.bfloat16)
    b = torch.randn(512, generator=generator).to(torch.bfloat16)
    expected = {"add": a + b, "subtract": a - b, "multiply": a * b, "smaller": torch.minimum(a, b)}[operation]
    out = torch.empty(512, dtype=torch.bfloat16, device=DEVICE)
    less = torch.empty(512, dtype=torch.int32, device=DEVICE)
    operate_kernel[(1,)](a.to(DEVICE), b.to(DEVICE), out, less, OPERATION=operation, BLOCK=512)
    assert torch.equal(out.cpu(), expected)
    assert torch.equal(less.cpu(), (a < b).int())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dot_of_integers_is_exact(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(-8, 9, (32, 64), generator=generator).to(dtype)
    b = torch.randint(-8, 9, (64, 16), generator=generator).to(dtype)
    out = torch.empty(32, 16, device=DEVICE)
    dot_kernel[(1,)](a.to(DEVICE), b.to(DEVICE), out, M=32, N=16, K=64)
    assert torch.equal(out.cpu(), a.float() @ b.float())


def test_bfloat16_constants_and_integers_become_values() -> None:
    out = torch.empty(16, dtype=torch.bfloat16, device=DEVICE)
    constant_kernel[(1,)](out, BLOCK=16)
    expected = torch.tensor(1.7, dtype=torch.bfloat16) + torch.arange(100, 116).to(torch.bfloat16)
    assert torch.equal(out.cpu(), expected)


def test_fma_rounds_once_and_maximum_prefers_the_number() -> None:
    x = torch.tensor([1 + 2.0**-12, 1.0, torch.nan, 2.0])
    y = torch.tensor([1 + 2.0**-12, 3.0, 5.0, torch.nan])
    z = torch.tensor([-1 - 2.0**-11, 1.0, 0.0, 0.0])
    fma, maximum = torch.empty(4, device=DEVICE), torch.empty(4, device=DEVICE)
    fma_and_maximum_kernel[(1,)](x.to(DEVICE), y.to(DEVICE), z.to(DEVICE), fma, maximum, BLOCK=4)
    assert float(fma[0]) == 2.0**-24  # x * y rounded first would give 0
    assert torch.equal(maximum.cpu()[1:], torch.tensor([3.0, 5.0, 2.0]))


def test_a_scalar_condition_masks_all_or_nothing() -> None:
    for first, expected in ((1.0, [1.0, 5.0, 6.0, 7.0]), (-2.0, [-1.0] * 4)):
        out = torch.empty(4, device=DEVICE)
        scalar_condition_kernel[(1,)](torch.tensor([first, 5.0, 6.0, 7.0], device=DEVICE), out, BLOCK=4)
        assert out.tolist() == expected


@pytest.mark.filterwarnings("error")
def test_a_loop_over_a_tensor_range_sums_every_element_without_a_warning() -> None:
    x, out = torch.arange(37, dtype=torch.float32, device=DEVICE), torch.empty(1, device=DEVICE)
    sum_kernel[(1,)](x, out, 37, BLOCK=16)
    assert float(out) == 37 * 36 / 2


@interpreted_only
@pytest.mark.parametrize(("read", "verb"), [(1, "load"), (0, "store")])
def test_a_mask_off_by_one_is_an_error(read: int, verb: str) -> None:
    x, out = torch.ones(8), torch.empty(8)
    with pytest.raises(triton.runtime.errors.InterpreterError, match=f"would {verb} 1 of 9 elements outside"):
        off_by_one_kernel[(1,)](x, out, 8, READ=read, BLOCK=16)


@interpreted_only
def test_repair_twice_changes_nothing_more() -> None:
    from triton.runtime import interpreter

    patched = [
        (interpreter.InterpreterBuilder, "create_dot"),
        (interpreter.InterpreterBuilder, "create_masked_load"),
        (interpreter.GridExecutor, "__call__"),
        (interpreter, "_patch_lang"),
    ]
    before = [getattr(owner, name) for owner, name in patched]
    qbench.interpreter.repair()
    assert before == [getattr(owner, name) for owner, name in patched]
