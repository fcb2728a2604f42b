"""Walking, copying, poisoning and comparing structures of tensors."""

from collections import deque
from dataclasses import dataclass

import torch

from qbench.tensors import clone, nbytes, poison, poisoned_allocations, same_bits, storages, tensors


@dataclass(frozen=True)
class Pair:
    data: torch.Tensor
    name: str
    scale: torch.Tensor | None = None


def test_tensors_are_found_in_every_structure_in_order():
    a, b, c, d = (torch.full((2,), float(i)) for i in range(4))
    assert [t[0].item() for t in tensors((a, [Pair(b, "x", c)], {"d": d}, "text", 5))] == [0, 1, 2, 3]
    assert len(list(tensors(torch.nn.Linear(2, 2)))) == 2


def test_poison_reaches_into_every_structure():
    """A deque was once passed over: the timer keeps its outputs in one."""
    for made in (tuple, list, deque):
        value = made([torch.ones(2), torch.ones(2)])
        poison(value)
        assert all(each.isnan().all() for each in value)


def test_clone_has_fresh_memory_and_equal_bits():
    value = (Pair(torch.arange(4.0), "x"), [torch.nn.Linear(2, 2)])
    copied = clone(value)
    assert same_bits(value, copied) and copied[0].name == "x"
    assert not {t.data_ptr() for t in tensors(value)} & {t.data_ptr() for t in tensors(copied)}
    assert nbytes(value) == nbytes(copied) == 16 + 24


def test_a_copied_deque_is_as_long_and_holds_other_tensors():
    value = deque([torch.ones(2), torch.zeros(2)], maxlen=2)
    copied = clone(value)
    assert isinstance(copied, deque) and copied.maxlen == 2 and same_bits(list(value), list(copied))
    assert not storages(value) & storages(copied)


def test_poison_reaches_every_element_but_spares_single_numbers():
    value = Pair(torch.zeros(3, 4).bfloat16(), "x", torch.ones(()))
    poison(value)
    assert value.data.isnan().all() and value.scale == 1
    codes = torch.zeros(8, dtype=torch.uint8)
    poison(codes)
    assert (codes == 255).all()


def test_poison_spares_what_is_an_operand_too():
    operand = torch.ones(4)
    poison((operand.view(2, 2), torch.ones(4)), storages((operand,)))
    assert (operand == 1).all()


def test_poison_takes_any_layout_and_dtype():
    for dtype in (torch.int8, torch.int32, torch.uint8, torch.float8_e4m3fn, torch.bfloat16):
        value = torch.zeros(4, 6).to(dtype).t()
        poison(value)
        assert not same_bits(value, torch.zeros_like(value))
    with poisoned_allocations():
        assert (torch.empty_like(torch.zeros(4, 6, dtype=torch.int32).t()) == -1).all()
        assert torch.empty_permuted((2, 3), (1, 0)).isnan().all()


def test_same_bits_tells_signed_zeros_and_knows_nan():
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(3))
    assert not same_bits((torch.zeros(2),), ())


def test_an_unwritten_element_shows_whatever_made_the_memory():
    like = torch.zeros(4)
    with poisoned_allocations():
        made = [torch.empty(4), torch.empty_like(like), like.new_empty(4), torch.empty_strided((4,), (1,))]
        codes = torch.empty(4, dtype=torch.int8)
        zeros = torch.zeros(4)
    assert all(each.isnan().all() for each in made) and (codes == -1).all() and (zeros == 0).all()
    assert torch.empty(0).numel() == 0
