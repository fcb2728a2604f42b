"""Decoding as it is measured: the model's own tokens, one graph, and the bugs that the timing test's check sees."""

import dataclasses
import weakref

import pytest
import torch
from torch import nn

pytest.importorskip("transformers", reason="transformers is not installed; pip install pytest-qbench[models]")

from qbench.case import Case, Cost, Op, Unsupported, Workload
from qbench.check import WrongResult
from qbench.measure import Bench
from qbench.model import Decoder, NotOneGraph, Variant, cases
from qbench.model.cache import static_cache
from qbench.model.graph import Compilations
from qbench.model.traffic import Matrices, Traffic, least_ns, matrices, weight_bytes
from qbench.model.verify import Decoded, agrees, decoded, found, text_of, uncached, watched
from qbench.result import Ceilings
from qbench.timing import TimingPolicy
from qkernels import models

QUICK = TimingPolicy(warmup=1, bursts=2, max_bursts=2, rest_ms=0.0)
CEILINGS = Ceilings(100.0, 10.0)


@pytest.fixture(scope="module")
def llama():
    return models.build("tiny-llama", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def nemotron():
    return models.build("tiny-nemotron-h", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def bench():
    return Bench(QUICK, torch.device("cpu"), None, _ceilings=CEILINGS)


def run(decoder):
    decoder.reset()
    decoder.prefill()
    decoder.decode()
    return decoder.tokens.clone()


def problem(decoder):
    """What the check in the timing test says of a decoder, after a first text that may have left something."""
    run(decoder)
    seen = decoded(decoder)
    ids, places = text_of(decoder, seen)
    return agrees(found(decoder, seen), (decoder.model, ids.clone(), places), uncached)


@pytest.mark.parametrize("name", ["llama", "nemotron"])
def test_greedy_generate_gives_the_same_tokens_and_so_does_a_second_run(name, request):
    model = request.getfixturevalue(name)
    decoder = Decoder(model, batch=2, prompt=5, new=6)
    first = run(decoder)
    prompt = decoder.history[:, :5]
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=7, **options)
    assert first.shape == (2, 7) and torch.equal(first, wanted[:, 5:])
    assert torch.equal(run(decoder), first)


def test_a_text_is_the_same_in_every_batch_and_another_by_another_seed(llama):
    alone, among, other = (
        Decoder(llama, batch=b, prompt=9, new=1, seed=s) for b, s in ((1, 0), (3, 0), (1, 1))
    )
    assert torch.equal(alone.history, among.history[:1])
    assert not torch.equal(alone.history, other.history)


def test_sizes_below_one_are_refused(llama):
    with pytest.raises(ValueError, match="new 0: expected a whole number"):
        Decoder(llama, batch=1, prompt=1, new=0)


# One graph


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-nemotron-h"])
def test_a_step_is_one_graph_with_the_tokens_of_the_eager_one_and_a_second_compilation_is_seen(preset):
    layers = 1 if preset == "tiny-llama" else None
    model = models.build(preset, device="cpu", dtype=torch.float32, layers=layers)
    decoder = Decoder(model, batch=2, prompt=5, new=4, mode="traced")
    assert torch.equal(run(decoder), run(Decoder(model, batch=2, prompt=5, new=4)))
    assert problem(decoder) is None
    assert (decoder.compilations.graphs, decoder.compilations.breaks) == (1, {})
    assert decoder.compile_s > 0
    decoder.compilations.assert_one_graph("here")
    if preset == "tiny-llama":
        model.config._attn_implementation = "eager"  # something that the graph was specialised on
        run(decoder)
        with pytest.raises(NotOneGraph, match="2 graphs instead of 1"):
            decoder.compilations.assert_one_graph("after timing")


class Breaking(nn.Linear):
    def forward(self, x):
        torch._dynamo.graph_break("somebody prints here")
        return super().forward(x)


def test_a_graph_break_is_an_error_with_its_reason():
    model = models.build("tiny-llama", device="cpu", dtype=torch.float32, layers=1)
    model.model.layers[0].mlp.up_proj = Breaking(128, 256, bias=False)
    with pytest.raises(NotOneGraph, match=r"(?s)cannot be compiled into one graph.*somebody prints here"):
        Decoder(model, batch=1, prompt=2, new=2, mode="traced").decode()


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        (Compilations(0), "0 graphs"),
        (Compilations(1, {"print": 2}), r"2 graph breaks \(print\)"),
    ],
)
def test_what_is_not_one_graph_is_said(counted, words):
    with pytest.raises(NotOneGraph, match=words):
        counted.assert_one_graph("now")


# The check


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [  # nemotron_h in bfloat16 agrees too, after 10 s on a CPU
        ("tiny-llama", torch.float32),
        ("tiny-llama", torch.bfloat16),
        ("tiny-nemotron-h", torch.float32),
    ],
)
def test_a_right_model_agrees_with_a_forward_without_a_cache(preset, dtype):
    model = models.build(preset, device="cpu", dtype=dtype)
    assert problem(Decoder(model, batch=2, prompt=7, new=5)) is None


class PositionOff(Decoder):
    """The rotation of a key is that of the place before."""

    def step(self, history, position, logits):
        rotate = self.model.model.rotary_emb
        inner = rotate.forward
        rotate.forward = lambda x, position_ids: inner(x, position_ids - 1)
        try:
            super().step(history, position, logits)
        finally:
            rotate.forward = inner


class StaleToken(Decoder):
    """Each step reads the token before the last."""

    @torch.no_grad()
    def step(self, history, position, logits):
        kept = history.index_select(1, position)
        history.index_copy_(1, position, history.index_select(1, position - 1))
        super().step(history, position, logits)
        history.index_copy_(1, position - 1, kept)


class NotEmptied(Decoder):
    """A second text is written behind the first."""

    def reset(self):
        if not hasattr(self, "longer"):
            self.longer = self.cache = static_cache(self.model, 4 * (self.prompt + self.new))
        self.position.zero_()


class LostKey(Decoder):
    """One place of one layer's cache is not written."""

    def prefill(self):
        super().prefill()
        self.cache.layers[1].keys[:, :, 3] = 0


class LostStep(Decoder):
    """The cache is not written by a step in the middle: its place stays empty."""

    def step(self, history, position, logits):
        super().step(history, position, logits)
        if int(position) == self.prompt + 2:
            self.cache.layers[0].values[:, :, self.prompt + 1] = 0


@pytest.mark.parametrize("bug", [PositionOff, StaleToken, NotEmptied, LostKey, LostStep])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_planted_bug_is_seen(bug, dtype):
    model = models.build("tiny-llama", device="cpu", dtype=dtype)
    assert "more than rounding" in str(problem(bug(model, batch=2, prompt=7, new=5)))


def test_states_that_are_kept_from_the_text_before_are_seen(nemotron, monkeypatch):
    decoder = Decoder(nemotron, batch=2, prompt=7, new=5)
    for layer in decoder.cache.layers:
        if hasattr(layer, "recurrent_states"):
            monkeypatch.setattr(layer, "reset", lambda: None)
    assert "more than rounding" in str(problem(decoder))


def test_a_replay_that_differs_from_the_eager_step_is_seen(llama):
    decoder = Decoder(llama, batch=2, prompt=7, new=5)
    seen = decoded(decoder)
    ids, places = text_of(decoder, seen)
    inputs = (llama, ids.clone(), places)
    right = found(decoder, seen)
    again = right.parts["logits"][:4]
    assert agrees(dataclasses.replace(right, again=again), inputs, uncached) is None
    wrong = agrees(dataclasses.replace(right, again=again.roll(1, 0)), inputs, uncached)
    assert "replayed steps against eager ones" in str(wrong)


def test_nan_is_no_agreement(llama):
    decoder = Decoder(llama, batch=1, prompt=3, new=2)
    seen = decoded(decoder)
    ids, places = text_of(decoder, seen)
    parts = found(decoder, seen).parts
    parts["logits"][1] = float("nan")
    assert "logits" in str(
        agrees(dataclasses.replace(found(decoder, seen), parts=parts), (llama, ids, places), uncached)
    )


def test_a_token_that_is_not_the_likeliest_is_wrong():
    logits = torch.tensor([[0.0, 1.0, 0.5]])
    Decoded(torch.tensor([[1, 1]]), {-1: logits, 0: logits})
    with pytest.raises(WrongResult, match="after step 0 is not the one"):
        Decoded(torch.tensor([[1, 2]]), {-1: logits, 0: logits})


def test_the_first_the_middle_and_the_last_step_are_watched():
    assert watched(1) == [0] and watched(2) == [0, 1]
    assert watched(64) == [0, 1, 2, 32, 63]


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
    assert traffic.kv == ((2 * 2 * head * 4, 6, 2 * 4 * 2 * head),) * 2
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
    with pytest.raises(WrongResult, match="the same text must be decoded each time"):
        trial.measure()
    bench.let_go()


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
