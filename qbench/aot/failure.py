"""Why a kernel could not be compiled, in one line: from an exception, or from what a dead compiler printed."""

from __future__ import annotations

import re

from qbench.aot.isolate import Outcome

_MOST = 300
_PLACES = re.compile(r"(/[\w.+-]+)+/")  # folders
_SAID = (  # in order of how much they tell
    re.compile(r"Assertion [`'](.+?)' failed"),
    re.compile(r"(LLVM ERROR: .+)"),
    re.compile(r"((?:std::bad_alloc|out of memory).*)"),
    re.compile(r"error: (.+)"),
    re.compile(r"(Internal Triton .+)"),
    re.compile(r"(PassManager::run failed.*)"),
)


def describe(error: BaseException) -> str:
    """An exception of the compiler, with the line of the kernel it speaks of."""
    kind, text = type(error).__name__, str(error)
    if kind == "PTXASError":
        return f"ptxas: {_ptxas(text)}"
    if kind == "MemoryError":
        return "out of memory"
    node, source = getattr(error, "node", None), getattr(error, "src", None)
    if hasattr(error, "error_message") or source is not None:
        inner = root(error)
        said = getattr(inner, "error_message", None) or (str(inner) if inner is not error else text)
        place = ""
        if source and node is not None and 0 < getattr(node, "lineno", 0) <= len(source.splitlines()):
            place = f" in `{source.splitlines()[node.lineno - 1].strip()}`"
        name = "" if inner is error or hasattr(inner, "error_message") else f"{type(inner).__name__}: "
        return one_line(f"{kind}{place}: {name}{said}")
    return one_line(f"{kind}: {text}" if text else kind)


def root(error: BaseException) -> BaseException:
    """The first cause: Triton wraps one error into the next for each call."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason(outcome: Outcome) -> str:
    """One line for a task that gave no value."""
    if outcome.raised:
        vague = re.match(r"(RuntimeError|\w*Error): (PassManager::run failed)?", outcome.raised)
        said = _said(outcome.printed) if vague and vague[2] else ""
        return f"{outcome.raised}: {said}" if said and said not in outcome.raised else outcome.raised
    said = _said(outcome.printed)
    if not said and "SIGKILL" in outcome.status:
        said = "killed from outside, most likely for want of memory"
    return f"the compiler {outcome.status}" + (f": {said}" if said else "")


def one_line(text: str) -> str:
    """Without folders and line breaks, and of bounded length."""
    text = _PLACES.sub("", " ".join(text.split()))
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def _said(printed: str) -> str:
    for pattern in _SAID:
        if found := pattern.search(printed):
            return one_line(found[1])
    return ""


def _ptxas(text: str) -> str:
    lines = [line for line in text.splitlines() if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)]
    told = [line for line in lines if "ptxas" not in line.partition(",")[0] or "line" in line or "fatal" in line]
    chosen = (told or lines or text.splitlines() or ["failed"])[0]
    chosen = re.sub(r"ptxas (\S+\.ptx)?(, line \d+; )?", "", chosen)
    return one_line(re.sub(r"^(error|fatal)\s*:\s*", "", chosen.strip()))
