"""What a weight takes in each format: codes, block scales and global scale, from the format alone.

`python -m qkernels.memory` prints the table; the ratio is against 16 bits. Scales are counted by the format's
block, never by a rotation's size, which stores nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass

from qkernels.format import FORMATS, Format, get_format
from qkernels.models import MODELS, get_model

SHAPES = ((4096, 4096), (11008, 4096))


@dataclass(frozen=True)
class Row:
    """Bytes of one weight [n, k] in 16 bits and in a format."""

    n: int
    k: int
    format: str
    plain_bytes: int
    bytes: int

    @property
    def ratio(self) -> float:
        """How many times smaller than 16 bits."""
        return self.plain_bytes / self.bytes

    @property
    def saving(self) -> float:
        """Share of the 16-bit bytes that is saved."""
        return 1 - self.bytes / self.plain_bytes


def memory_rows(shapes: Iterable[tuple[int, int]], formats: Iterable[Format]) -> list[Row]:
    """One row for each shape [n, k] and format. K must be a multiple of the format's block."""
    chosen = list(formats)
    rows = []
    for n, k in shapes:
        for fmt in chosen:
            if fmt.block and k % fmt.block:
                raise ValueError(f"K = {k} is not a multiple of the {fmt.name} block {fmt.block}; pad K")
            rows.append(Row(n, k, fmt.name, 2 * n * k, fmt.nbytes((n, k))))
    return rows


def memory_table(rows: Iterable[Row]) -> str:
    lines = [f"{'weight [N, K]':>16}  {'format':<18}{'16 bit':>11}{'stored':>11}{'ratio':>8}{'saved':>8}"]
    lines += [
        f"{f'{row.n} x {row.k}':>16}  {row.format:<18}{row.plain_bytes / 2**20:>8.1f} MB"
        f"{row.bytes / 2**20:>8.1f} MB{row.ratio:>7.2f}x{row.saving:>8.1%}"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m qkernels.memory", description=__doc__)
    parser.add_argument("--models", nargs="+", default=[], help=f"of {', '.join(MODELS)}")
    parser.add_argument(
        "--formats", nargs="+", default=["nvfp4", "mxfp4", "fp8", "int8_token"], help=", ".join(FORMATS)
    )
    options = parser.parse_args(argv)
    try:
        shapes = [
            layer.shape(1)[::-1] for name in options.models for layer in get_model(name).layers
        ] or SHAPES
        print(memory_table(memory_rows(shapes, [get_format(name) for name in options.formats])))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
