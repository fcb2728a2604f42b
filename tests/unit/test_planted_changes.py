"""Changes that tests/compile plants fit the present kernels; to see what they compile to takes `make compile`."""

from __future__ import annotations

import ast

import pytest

from tests.compile.bugs import BUGS, NO_BUGS
from tests.compile.planting import SOURCE, Change


@pytest.mark.parametrize("change", [*BUGS, *NO_BUGS], ids=lambda change: change.name)
def test_each_text_occurs_once_and_what_it_becomes_is_python(change: Change) -> None:
    for file, old, new in change.edits:
        text = (SOURCE / file).read_text()
        assert text.count(old) == 1, f"{old!r} in {file}"
        ast.parse(text.replace(old, new))
