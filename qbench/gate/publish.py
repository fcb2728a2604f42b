"""A gate for others to show: Markdown for a comment or a step summary, GitHub annotations, JUnit."""

from __future__ import annotations

from xml.etree import ElementTree

from qbench.gate.result import FAILING, Gate, GateVerdict, Row
from qbench.gate.words import again, clip, counts, headline, in_order, line, power_words, shown, suite_words

_COMMENT = 60_000  # characters; GitHub takes 65,536
_ANNOTATIONS = 10  # of a level; GitHub shows no more in a step


def markdown(gate: Gate) -> str:
    """A step summary or a comment's body, shorter than what GitHub takes for one."""
    versions = [
        f"{name} {gate.versions[name]}" for name in ("torch", "triton", "driver") if name in gate.versions
    ]
    end = [
        f"- base {_code(gate.base)}",
        f"- candidate {_code(gate.candidate)}",
        f"- {', '.join((_plain(gate.device.name), *versions))}",
        f"- suite as a whole {suite_words(gate)}; {gate.suite_runs:.1f} suite runs in {gate.seconds:.0f} s",
    ]
    end += [f"- {_plain(words)}" for words in (*power_words(gate), *gate.notes)]
    faster = sum(row.verdict is GateVerdict.FASTER for row in gate.rows)
    if faster:
        end.append(f"- {faster} cases are faster: after merging, record them (`python -m qbench record`)")
    if command := again(gate):
        end += ["", "Once more, these cases only:", "```", command, "```"]
    lines = [f"## {headline(gate)}", "", counts(gate), ""]
    listed = [_cells(row) for row in shown(gate)]
    if listed:
        lines += ["| verdict | case | change | 99% interval | µs | pairs | finds | why |",
                  "| --- | --- | ---: | --- | --- | ---: | ---: | --- |"]  # fmt: skip
        room = _COMMENT - sum(len(each) + 1 for each in (*lines, *end)) - 100
        fitting = 0
        while fitting < len(listed) and (room := room - len(listed[fitting]) - 1) > 0:
            fitting += 1
        lines += listed[:fitting]
        rest = len(listed) - fitting
        lines += [f"| … | {rest} more in gate.json | | | | | | |"] if rest else []
        lines.append("")
    return "\n".join([*lines, *end]) + "\n"


def _cells(row: Row) -> str:
    cells = [row.verdict.value, _code(row.case).replace("|", "\\|"), "", "", "", "", ""]
    if row.ratio is not None:
        assert row.base_ns and row.candidate_ns and row.low and row.high and row.detectable
        cells[2:] = [f"{row.ratio - 1:+.2%}", f"{row.low - 1:+.2%} … {row.high - 1:+.2%}",
                     f"{row.base_ns / 1e3:.2f} → {row.candidate_ns / 1e3:.2f}", str(row.pairs),
                     f"{row.detectable:.1%}"]  # fmt: skip
    return f"| {' | '.join((*cells, _plain(row.reason)))} |"


def _code(words: str) -> str:
    return "`" + clip(words, 300).replace("`", "'") + "`"


def _plain(words: str) -> str:
    """Text that Markdown shows as it stands, in a table too."""
    found = (
        clip(words, 300)
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("@", "@\u200b")
    )
    for mark in "\\`*_[]|~#":
        found = found.replace(mark, f"\\{mark}")
    return found


def marks(gate: Gate) -> list[str]:
    """GitHub workflow commands that mark the tests' lines; GitHub shows ten of a level in a step."""
    suite = f"the suite as a whole is slower: {suite_words(gate)}"
    errors = [f"::error title=gate::{_message(suite)}"] if gate.shift.confirmed else []
    warnings = []
    for row in in_order(gate.rows):
        place = f"file={_property(row.place.file)},line={row.place.line}," if row.place else ""
        if row.verdict in FAILING:
            errors.append(f"::error {place}title=gate::{_message(line(row))}")
        elif row.verdict is GateVerdict.INCONCLUSIVE:
            warnings.append(f"::warning {place}title=gate::{_message(line(row))}")
    return errors[:_ANNOTATIONS] + warnings[:_ANNOTATIONS]


def _message(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _message(words).replace(":", "%3A").replace(",", "%2C")


def junit(gate: Gate) -> bytes:
    """JUnit XML: a test for the suite as a whole and one for each case; failing verdicts are failures, undecided and
    unmeasured ones are skipped.
    """
    passed = (
        GateVerdict.SAME,
        GateVerdict.FASTER,
        GateVerdict.NEW,
        GateVerdict.ACCEPTED,
        GateVerdict.REMOVED,
    )
    suite = ElementTree.Element("testsuite", name="qbench gate", time=f"{gate.seconds:.1f}", errors="0")
    whole = ElementTree.SubElement(suite, "testcase", name="the suite as a whole", classname="gate")
    if gate.shift.confirmed:
        ElementTree.SubElement(whole, "failure", message=_clean(suite_words(gate)))
    for row in in_order(gate.rows):
        place = row.place.file if row.place else "gate"
        case = ElementTree.SubElement(suite, "testcase", name=_clean(row.case), classname=_clean(place))
        if row.verdict in FAILING:
            failure = ElementTree.SubElement(case, "failure", message=_clean(line(row)))
            failure.text = _clean(row.reason)
        elif row.verdict not in passed:
            ElementTree.SubElement(case, "skipped", message=_clean(line(row)))
    suite.set("tests", str(len(gate.rows) + 1))
    for name, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    data: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return data


def _clean(words: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(
        c
        for c in words
        if c in "\t\n" or 32 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE or ord(c) > 0xFFFF
    )
