"""A model whose likelihoods can be computed by hand: the next token depends on the last one alone."""

from types import SimpleNamespace

import torch
from torch import nn


class Bigram(nn.Module):
    """logits [T, V] = table[token]; the forward of a causal LM of transformers, as far as likelihoods need it."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.table[input_ids])
