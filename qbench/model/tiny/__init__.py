"""A tiny model that is right about two-digit arithmetic, made here: the default for accuracy without downloads."""

from __future__ import annotations

from qbench.model.tiny.load import load_tiny

__all__ = ["load_tiny"]
