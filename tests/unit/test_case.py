"""Cases: ids, errors, declared facts."""

import pytest

import qbench
from qbench.case import provider_info


def op(name="double"):
    return qbench.Op(
        name,
        inputs=lambda workload, device: (1.0,),
        reference=lambda x: 2 * x,
        tolerance=qbench.exact,
        cost=lambda workload: qbench.Cost(8),
    )


@qbench.provider("fast", accumulator="fp8-fast", needs_cuda=True)
def declared(x):
    return lambda: x


def plain(x):
    return lambda: x


def test_id_is_made_of_op_provider_and_axes_and_not_of_the_seed():
    first, second = (
        qbench.cases(op(), [plain], [qbench.Workload.of(s, m=1, dtype="half")])[0] for s in (0, 7)
    )
    assert first.id == second.id == "double/plain[m=1,dtype=half]"


def test_provider_says_its_name_and_accumulator_and_a_plain_function_goes_by_its_own():
    assert provider_info(declared) == qbench.case.ProviderInfo("fast", "fp8-fast", needs_cuda=True)
    assert provider_info(plain).name == "plain"


def test_workload_leads_so_that_providers_of_one_workload_run_side_by_side():
    made = qbench.cases(op(), [plain, declared], [qbench.Workload.of(m=1), qbench.Workload.of(m=2)])
    assert [(c.workload["m"], c.provider_name) for c in made] == [
        (1, "plain"),
        (1, "fast"),
        (2, "plain"),
        (2, "fast"),
    ]


def test_two_providers_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two cases share the id 'double/plain\[m=1\]'"):
        qbench.cases(op(), [plain, plain], [qbench.Workload.of(m=1)])


@pytest.mark.parametrize("value", ["a b", "a/b", "x]", ""])
def test_axis_values_that_would_break_an_id_are_refused(value):
    with pytest.raises(ValueError, match="axis kind="):
        qbench.Workload.of(kind=value)


def test_op_name_that_cannot_name_a_file_is_refused():
    with pytest.raises(ValueError, match="op name 'a/b'"):
        op("a/b")


def test_missing_axis_names_the_known_ones():
    with pytest.raises(KeyError, match="no axis 'n'; it has m, k"):
        qbench.Workload.of(m=1, k=2)["n"]


def test_size_refuses_what_is_no_whole_number():
    with pytest.raises(TypeError, match="axis m='x'"):
        qbench.Workload.of(m="x").size("m")


def test_unsupported_names_the_nearest_choice():
    assert str(qbench.Unsupported("needs sm_100", "torch-bf16")) == "needs sm_100; use torch-bf16 instead"


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        (None, "needs a CUDA device"),
        ((9, 0), "needs compute capability 10.0, this GPU has 9.0"),
        ((10, 3), ""),
    ],
)
def test_what_a_provider_needs_is_named_where_it_is_missing(capability, words):
    needing = qbench.provider("new", needs_capability=(10, 0), instead="old")(plain_again)
    info = provider_info(needing)
    assert info.instead == "old"
    assert words in info.missing(capability) if words else info.missing(capability) == ""


def plain_again(x):
    return lambda: x
