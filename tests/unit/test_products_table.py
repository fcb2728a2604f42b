"""The README's table of products is that of the stored run."""

from __future__ import annotations

from pathlib import Path

from tests.products_table import table

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_stored_run() -> None:
    assert table(ROOT / "tests/data/h200_products.json") in (ROOT / "README.md").read_text()
