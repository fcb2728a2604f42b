"""A published comparison as importable data: Nemotron-Nano-9B-v2, standard against NVFP4, on A100, H100 and B200.

It is kept because it shows what a comparison has to say. Its speedups of 1.56×, 1.45× and 1.11× are of tokens/s
between runs that made different numbers of tokens; in wall time they are 1.37×, 1.27× and 0.96×. Its accuracy drops of
1.1 to 1.8 points are within what 1319 problems vary by. `python -m qbench compare --sample` draws it.
"""

from __future__ import annotations

from pathlib import Path

from qbench.model.sample.published import Published, read_published

PATH = Path(__file__).parent / "nemotron_nano_9b_v2.json"

__all__ = ["PATH", "nemotron_nano_9b_v2"]


def nemotron_nano_9b_v2() -> Published:
    """The table, read and checked."""
    return read_published(PATH)
