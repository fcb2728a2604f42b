"""Perplexity, KL and agreement: against sums made by hand, and the interval against what it promises."""

import math

import pytest
import torch

from qbench.model.accuracy import likelihood
from qbench.model.accuracy.likelihood import (
    divergence,
    divergence_from,
    perplexity,
    reference_logits,
    text_windows,
    windows,
)
from tests.models.bigram import Bigram

V = 7


def _table(seed, scale=1.0):
    return scale * torch.randn(V, V, generator=torch.Generator().manual_seed(seed))


def _text(count, seed=5):
    return torch.randint(V, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 4), (8, 1), (5, 3), (2, 1), (30, 17)])
@pytest.mark.parametrize("count", [31, 32, 33, 64])
def test_every_token_is_scored_once_with_the_context_promised(count, length, stride):
    tokens = torch.arange(count)
    parts = windows(tokens, length=length, stride=stride)
    scored = [int(token) for part in parts for token in part.tokens[part.scored :]]
    assert scored == sorted(set(scored))
    lost = set(range(0, count, stride)) if stride == length else {0}
    assert set(scored) == set(range(count)) - lost
    assert all(part.scored >= max(1, length - stride) for part in parts[1:])


@pytest.mark.parametrize(
    ("count", "length", "stride", "words"),
    [(8, 8, None, "two are needed"), (1, 8, None, "two are needed"), (20, 8, 9, "stride"), (20, 1, 1, "length >= 2"),
     (20, 8, 0, "stride")],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(count, length, stride, words):
    with pytest.raises(ValueError, match=words):
        windows(torch.arange(count), length=length, stride=stride)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_the_numbers_are_the_sums_made_by_hand(monkeypatch, chunk):
    monkeypatch.setattr(likelihood, "_CHUNK", chunk)  # a token at a time, and all at once
    a, b, tokens = _table(1), _table(2), _text(50)
    found = divergence(Bigram(a), Bigram(b), windows(tokens, length=10, stride=6))
    nll = [0.0, 0.0]
    kl = same = 0.0
    for last, now in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True):
        p, q = ([math.exp(x) for x in row] for row in (a[last].tolist(), b[last].tolist()))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        nll[0] -= math.log(p[now])
        nll[1] -= math.log(q[now])
        kl += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        same += p.index(max(p)) == q.index(max(q))
    assert found.tokens == 49
    assert found.reference_perplexity.value == pytest.approx(math.exp(nll[0] / 49))
    assert found.perplexity.value == pytest.approx(math.exp(nll[1] / 49))
    assert found.ratio.value == pytest.approx(math.exp((nll[1] - nll[0]) / 49))
    assert found.kl.value == pytest.approx(kl / 49)
    assert found.top1.value == same / 49
    alone = perplexity(Bigram(b), windows(tokens, length=10, stride=6))
    assert alone == found.perplexity


def test_a_model_does_not_diverge_from_itself():
    model = Bigram(_table(3))
    found = divergence(model, model, windows(_text(200), length=20))
    assert (found.kl.value, found.kl.high, found.ratio.value, found.top1.low) == (0.0, 0.0, 1.0, 1.0)


def test_stored_logits_give_what_both_models_give():
    parts, a, b = windows(_text(80), length=16), Bigram(_table(1)), Bigram(_table(2))
    assert divergence_from(reference_logits(a, parts), b, parts) == divergence(a, b, parts)


def test_kl_sees_what_the_texts_own_token_does_not():
    """Two tokens that never come swap their probabilities: perplexity is the same, KL and agreement are not."""
    a = _table(4)
    a[:, 5], a[:, 6] = 3.0, 2.0
    b = a.clone()
    b[:, 5], b[:, 6] = 2.0, 3.0
    text = torch.randint(5, (100,), generator=torch.Generator().manual_seed(1))
    found = divergence(Bigram(a), Bigram(b), windows(text, length=10))
    assert found.ratio.value == pytest.approx(1.0, abs=1e-12)
    assert found.kl.value > 0.1 and found.top1.value < 0.5


def test_nan_is_an_error_and_no_number():
    broken = _table(1)
    broken[2] = math.nan
    parts = windows(_text(60), length=10)
    with pytest.raises(ValueError, match="NaN or infinity"):
        perplexity(Bigram(broken), parts)
    with pytest.raises(ValueError, match="NaN or infinity"):
        divergence(Bigram(_table(1)), Bigram(broken), parts)


def test_the_interval_covers_and_narrows_with_the_text():
    """95% nominal, for KL on 60 random texts of 40 windows; percentiles of so few windows run a little low."""
    a, b = Bigram(_table(1, 1.5)), Bigram(_table(2, 1.5))
    truth = divergence(a, b, windows(_text(40000, seed=99), length=100)).kl.value
    covered = sum(
        found.low <= truth <= found.high
        for found in (divergence(a, b, windows(_text(400, seed=s), length=10)).kl for s in range(60))
    )
    assert 50 <= covered <= 59
    short = divergence(a, b, windows(_text(400, seed=1), length=10)).kl
    long = divergence(a, b, windows(_text(6400, seed=1), length=10)).kl
    assert 3 < (short.high - short.low) / (long.high - long.low) < 5.5  # four, by the square root


def test_any_text_is_cut_by_the_models_own_tokenizer():
    class Letters:
        def __call__(self, text, add_special_tokens, verbose):
            assert not add_special_tokens
            return type("Ids", (), {"input_ids": [ord(c) for c in text]})

    parts = text_windows(Letters(), "abcdef", length=3)
    assert [part.tokens.tolist() for part in parts] == [[97, 98, 99], [100, 101, 102]]


def test_the_lines_name_the_tokens_and_the_intervals():
    lines = divergence(Bigram(_table(1)), Bigram(_table(2)), windows(_text(80), length=16)).lines()
    assert lines[0].startswith("| 75 tokens, 5 windows |") and len(lines) == 7
    assert all(line.count("|") == 4 for line in lines)


def test_figures_are_those_that_a_file_stores():
    found = divergence(Bigram(_table(1)), Bigram(_table(2)), windows(_text(80), length=16))
    figures = found.figures()
    assert figures["kl_nats"] == found.kl.value and figures["likelihood_tokens"] == 75.0
    assert all(isinstance(value, float) for value in figures.values())
