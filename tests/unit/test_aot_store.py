"""Stored metrics of compiled kernels: read strictly, written whole, with diffs that can be read."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import pytest

from qbench.aot.store import Change, CompileStore
from qbench.result import DataError
from tests.unit.test_aot_judge import BASE


def store(root: Path, target: str = "sm_90", triton: str = "3.7.1") -> CompileStore:
    return CompileStore(root, target, triton)


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    unknown = replace(BASE, bytes_read=None, mma={}, divisible=())
    assert store(tmp_path).update({"b/k": BASE, "a/k": unknown}, "append") == [
        Change("b/k", "add"),
        Change("a/k", "add"),
    ]
    assert store(tmp_path).entries == {"a/k": unknown, "b/k": BASE}
    assert store(tmp_path).path == tmp_path / "compile" / "sm_90-triton-3.7.1.json"
    assert store(tmp_path, triton="3.8.0").entries == {}


def test_a_change_of_one_fact_changes_one_line(tmp_path: Path) -> None:
    store(tmp_path).update({"b/k": BASE, "a/k": BASE}, "append")
    before = store(tmp_path).path.read_text().splitlines()
    assert store(tmp_path).update({"b/k": replace(BASE, registers=55)}, "append") == [
        Change("b/k", "replace")
    ]
    after = store(tmp_path).path.read_text().splitlines()
    assert [line for line in difflib.unified_diff(before, after, n=0) if line[0] in "+-"][2:] == [
        '-   "registers": 40,',
        '+   "registers": 55,',
    ]


def test_the_order_in_which_entries_and_counts_come_does_not_matter(tmp_path: Path) -> None:
    turned = replace(BASE, histogram=dict(reversed(BASE.histogram.items())))
    store(tmp_path / "one").update({"a": BASE, "b": BASE}, "append")
    store(tmp_path / "two").update({"b": turned, "a": turned}, "append")
    assert store(tmp_path / "one").path.read_bytes() == store(tmp_path / "two").path.read_bytes()


def test_modes(tmp_path: Path) -> None:
    other = replace(BASE, registers=41)
    assert store(tmp_path).update({"a": BASE}, "dry") == [Change("a", "add")]
    assert not store(tmp_path).path.exists()
    store(tmp_path).update({"a": BASE}, "append")
    assert store(tmp_path).update({"a": other, "b": other}, "missing") == [Change("b", "add")]
    assert store(tmp_path).get("a") == BASE
    assert store(tmp_path).update({"a": BASE}, "replace") == []
    assert store(tmp_path).update({"a": other}, "replace") == [Change("a", "replace")]
    assert store(tmp_path).unused(["b"]) == ["a"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"registers": 40', '"registers": -1', "registers"),
        ('"registers": 40', '"registers": "40"', "registers"),
        ('"registers": 40', '"registers": 40, "new": 1', "unknown field `new`"),
        ('   "registers": 40,\n', "", "missing required field `registers`"),
        ('{"128": 8, "8": 2}', '{"wide": 8}', "global_loads"),
        ('"schema": 1', '"schema": 2', "schema 2, this version reads 1"),
        ('"target": "sm_90"', '"target": "sm_80"', "its name says otherwise"),
        ('"schema"', "schema", "malformed"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_its_name_and_a_remedy(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    store(tmp_path).update({"a": BASE}, "append")
    path = store(tmp_path).path
    text = path.read_text().replace('{"8": 2, "128": 8}', '{"128": 8, "8": 2}')
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match="restore it from version control") as caught:
        store(tmp_path).entries  # noqa: B018
    assert said in str(caught.value)
    assert path.name in str(caught.value)
