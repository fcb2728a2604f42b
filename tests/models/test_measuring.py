"""Whole-model cases: the least work of a call, figures that follow from times, and what keeps a case from timing."""

import dataclasses
import weakref

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed; pip install pytest-qbench[models]")

from qbench import turns
from qbench.case import Case, Cost, Op, Unsupported, Workload
from qbench.check import WrongResult
from qbench.measure import Bench
from qbench.model import Decoder, Variant, cases, decode
from qbench.model.traffic import Matrices, Traffic, least_ns, matrices, weight_bytes
from qbench.model.trial import ModelTrial, _other_text
from qbench.result import Ceilings
from qbench.timing import TimingPolicy
from qkernels import models

QUICK = TimingPolicy(warmup=1, bursts=2, max_bursts=2, rest_ms=0.0)
CEILINGS = Ceilings(100.0, 10.0)


@pytest.fixture(scope="module")
def llama():
    return models.build("tiny-llama", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def bench():
    return Bench(QUICK, torch.device("cpu"), None, _ceilings=CEILINGS)


def run(decoder):
    decoder.reset()
    decoder.prefill()
    decoder.decode()
    return decoder.tokens.clone()


# What it costs at least


def test_bytes_are_all_weights_once_and_rows_of_the_embedding(llama):
    weights, row = weight_bytes(llama)
    everything = sum(p.nbytes for p in llama.parameters()) + sum(b.nbytes for b in llama.buffers())
    assert weights == everything - llama.model.embed_tokens.weight.nbytes
    assert row == 128 * 4


def test_a_head_that_shares_the_embedding_is_read_whole():
    model = models.build("tiny-llama", device="cpu", dtype=torch.float32, layers=1)
    apart = weight_bytes(model)[0]
    model.lm_head.weight = model.model.embed_tokens.weight
    assert weight_bytes(model)[0] == apart
    assert matrices(model).head == 256 * 128


def test_a_packed_layer_counts_as_packed_wherever_it_keeps_its_tensors(llama):
    @dataclasses.dataclass
    class Packed:
        data: torch.Tensor

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(8))
            self.packed = Packed(torch.ones(100, dtype=torch.uint8))
            self.alias = self.packed.data

    assert weight_bytes(Layer()) == (132, 0)
    layer = llama.model.layers[0].mlp
    assert matrices(layer) == Matrices(3 * 128 * 256, 0)


def test_costs_are_those_of_every_step_added_up():
    traffic = Traffic(1000, 10, 50, ((4, 100, 7), (4, 6, 7)), Matrices(300, 20))
    steps = [5 + i + 1 for i in range(3)]  # places seen by each of 3 steps after 5
    seen = sum(steps) + sum(min(each, 6) for each in steps)
    cost = traffic.decode(batch=2, prompt=5, new=3)
    assert cost == Cost(
        3 * (1000 + 2 * 50 + 2 * 10) + 2 * 4 * (seen + 2 * 3), 2 * 3 * 2 * 320 + 2 * 7 * seen, 6
    )
    cost = traffic.prefill(batch=2, prompt=5)
    places = 2 * sum(range(1, 6))
    assert cost == Cost(1000 + 50 + 2 * 5 * 10 + 2 * 2 * 4 * 5, 2 * 2 * (5 * 300 + 20) + 2 * 7 * places, 10)


def test_the_least_time_is_that_of_the_slower_unit():
    ceilings = Ceilings(100.0, 10.0, by_accumulator={"fast": 20.0})
    assert least_ns(Cost(1000, 10), ceilings, "fp32") == 10.0
    assert least_ns(Cost(1000, 10**6), ceilings, "fp32") == 100.0
    assert least_ns(Cost(1000, 10**6), ceilings, "fast") == 50.0


def test_a_cache_tells_what_a_step_reads(llama):
    decoder = Decoder(llama, batch=3, prompt=4, new=2)
    run(decoder)
    traffic = Traffic.of(llama, decoder.cache, 3, matrices(llama))
    head = 128 // 4
    assert traffic.kv == ((2 * 2 * head * 4, 16, 2 * 4 * 2 * head),) * 2  # 6 places, and what fills them up
    assert traffic.states == 0


# Cases


def one(batches=(1,), apply=lambda model: {"mode": "none"}, available=None, built=None, name="tiny"):
    def build(device):
        if built is not None:
            built.append(device)
        return models.build("tiny-llama", device=device, dtype=torch.float32, layers=1)

    variants = [Variant("bf16", apply, available)]
    return cases({name: build}, variants, batches=batches, prompts=[4], new=3)


def test_cases_of_a_recipe_stand_together_and_are_named_by_their_axes():
    made = cases(
        {"a": None, "b": None},
        [Variant(name, None) for name in ("x", "y")],
        batches=[1, 8],
        prompts=[16],
        new=4,
    )
    assert [case.id for case in made[:3]] == [
        "model_prefill/x[model=a,batch=1,prompt=16,new=4]",
        "model_decode/x[model=a,batch=1,prompt=16,new=4]",
        "model_prefill/x[model=a,batch=8,prompt=16,new=4]",
    ]
    models_and_recipes = [(case.workload["model"], case.provider_name) for case in made]
    assert models_and_recipes == [(m, r) for m in "ab" for r in "xy" for _ in range(4)]
    with pytest.raises(ValueError, match="two cases share an id"):
        cases({"a": None}, [Variant("x", None)] * 2, batches=[1], prompts=[16], new=4)


def test_an_eager_step_is_another_case():
    (_, decode) = cases({"a": None}, [Variant("x", None)], batches=[1], prompts=[16], new=4, mode="eager")
    assert decode.id == "model_decode/x[model=a,batch=1,prompt=16,new=4,mode=eager]"


def test_a_model_is_built_once_for_all_batches_and_let_go_for_another_case(bench):
    built = []
    for case in one(batches=(1, 2), built=built):
        measured = bench.measure(case)
        assert len(measured.samples) >= 2 and measured.labels["mode"] == "none"
    assert len(built) == 1 and bench.kept is not None
    double = Op("double", lambda w, d: (torch.ones(4),), lambda x: 2 * x, lambda *_: None, lambda w: Cost(8))
    bench.measure(Case(double, lambda x: lambda: x * 2, Workload.of(m=4)))
    assert bench.kept is None


def test_a_model_is_built_compiled_and_checked_beside_others_and_timed_alone(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(turns, "_file", lambda device: tmp_path / "gpu.lock")
    said = []

    def note(what):
        said.append((what, list(turns._held.values())))

    def noted(what, method):
        return lambda self, *given: (note(what), method(self, *given))[1]

    case = one(apply=lambda model: note("build"), available=lambda device: note("ask"))[1]
    step = decode.Decoder.step
    monkeypatch.setattr(decode.Decoder, "step", noted("step", step))
    monkeypatch.setattr(ModelTrial, "measure", noted("measure", ModelTrial.measure))
    bench.measure(case)
    names = [what for what, _ in said]
    timed = names.index("measure")
    assert {"ask", "build", "step"} == set(names[:timed]) and "step" in names[timed:]
    assert [held for _, held in said] == [[False]] * timed + [[True]] * (len(said) - timed)
    assert not turns._held


def test_a_compiled_model_is_gone_before_the_next_is_built(bench):
    """Two of 16 GB and their graphs fit once or twice, not once for each of eight recipes."""
    gone = []

    def build(device):
        assert all(reference() is None for reference in gone), "the model before is still held"
        model = models.build("tiny-llama", device=device, dtype=torch.float32, layers=1)
        gone.append(weakref.ref(model))
        return model

    variants = [Variant(name, lambda model: None) for name in ("a", "b")]
    made = cases({"tiny": build}, variants, batches=[1], prompts=[3], new=2, mode="traced")
    for case in made:
        if case.op.name == "model_decode":
            bench.check(case)
    assert len(gone) == 2
    bench.let_go()


def test_figures_follow_from_the_times(bench):
    prefill, decode = (bench.measure(case) for case in one(batches=(2,)))
    wall = decode.times.median_ns * 1e-9
    assert decode.figures["tokens"] == 6 and decode.cost.elements == 6
    assert decode.figures["tokens_per_s"] == pytest.approx(6 / wall)
    assert decode.figures["ms_per_token"] == pytest.approx(wall * 1e3 / 3)
    assert decode.figures["roofline_percent"] == pytest.approx(
        100 * max(decode.cost.bytes / 100, decode.cost.flops / 1e4) / decode.times.median_ns
    )
    assert prefill.figures["ttft_ms"] == pytest.approx(prefill.times.median_ns * 1e-6)
    assert prefill.figures["tokens"] == 8
    assert (
        "joules_per_token" not in decode.figures and "peak_gib" not in decode.figures
    )  # a CPU tells neither
    assert decode.labels == {"model": "tiny", "recipe": "bf16", "mode": "none", "method": "eager"}


def test_other_tokens_while_timing_are_wrong(bench):
    """A model that is right when it is checked and drifts afterwards."""
    (_, case) = one()
    trial = case.op.trial(case, bench)
    trial.check()
    head = trial.decoder.model.lm_head
    head.weight = nn.Parameter(head.weight.roll(1, 0), requires_grad=False)
    with pytest.raises(WrongResult, match="the same text must be decoded each time") as caught:
        trial.measure()
    assert "in 1 of 1 texts (0), the first at token 0" in str(caught.value)
    head.weight[:, 0] = torch.nan
    with pytest.raises(WrongResult, match="logits are NaN: the same text"):
        trial.measure()
    bench.let_go()


def test_which_texts_became_others_is_said():
    assert _other_text(torch.zeros(3, 4, dtype=torch.bool)) == ""
    differs = torch.zeros(9, 4, dtype=torch.bool)
    differs[1:8, 2] = differs[3, 3] = True
    said = _other_text(differs)
    assert said.startswith(
        "8 of 36 tokens differ from those of the checked run, in 7 of 9 texts (1, 2, 3, 4, 5, 6, …)"
    )
    assert said.endswith(", the first at token 2")


def test_a_recipe_that_breaks_the_cache_is_wrong_before_it_is_timed(bench):
    """Activations scaled over all rows of a call: a step alone gives other values than the whole text."""

    class Batchwise(nn.Linear):
        def forward(self, x):
            scale = x.abs().amax() / 7
            return super().forward((x / scale).round() * scale)

    def apply(model):
        for layer in model.model.layers:
            for owner, name in (
                (layer.self_attn, "q_proj"),
                (layer.self_attn, "k_proj"),
                (layer.mlp, "up_proj"),
            ):
                before = getattr(owner, name)
                after = Batchwise(before.in_features, before.out_features, bias=False)
                after.weight = before.weight
                setattr(owner, name, after)

    with pytest.raises(WrongResult, match="against a forward without a cache"):
        bench.measure(one(apply=apply)[1])


def test_what_cannot_run_is_asked_before_a_model_is_built_and_remembered(bench):
    built, asked = [], []

    def never(device):
        asked.append(device)
        raise Unsupported("capability: too old", "bf16")

    for case in one(batches=(1, 2), available=never, built=built):
        with pytest.raises(Unsupported, match="too old; use bf16 instead"):
            bench.measure(case)
    assert built == [] and len(asked) == 1


def test_a_delay_is_in_the_time_of_every_part(bench):
    import time

    for case in one():
        trial = case.op.trial(case, bench)
        trial.check()
        trial.delay = lambda: time.sleep(0.1)
        assert min(trial.measure().samples) > 0.1e9
    bench.let_go()


class Meter:
    """A card that has drawn 30 J more at each reading."""

    def __init__(self):
        self.joules = 0.0

    def energy_j(self):
        self.joules += 30.0
        return self.joules


def test_joules_are_shared_by_the_tokens_decoded_between_two_readings(bench, monkeypatch):
    (_, case) = one(batches=(2,))
    trial = case.op.trial(case, bench)
    trial.check()
    blocks = []
    monkeypatch.setattr("qbench.model.trial._ENERGY_S", 0.05)
    monkeypatch.setattr(trial.decoder, "decode", lambda: blocks.append(int(trial.decoder.position)))
    timer = type("Timer", (), {"monitor": Meter()})()
    monkeypatch.setattr(bench, "timer", timer)
    # the first reading asks whether the card counts at all
    assert trial._joules() == pytest.approx(30.0 / (len(blocks) * 2 * 3))
    assert set(blocks) == {4}, "each block begins behind the prompt"
    bench.let_go()
