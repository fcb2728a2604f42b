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
)


def describe(error: BaseException) -> str:
    """An exception of the compiler, with the line of the kernel it speaks of."""
    kind, text = type(error).__name__, str(error)
    if kind == "PTXASError":
        return f"ptxas: {_ptxas(text)}"
    if kind == "MemoryError":
        return "out of memory"
    chain = [error]  # Triton wraps one error into the next for each function called
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    placed = [each for each in chain if _line(each)]
    if not placed:
        return one_line(f"{kind}: {text}" if text else kind)
    last = chain[-1]
    said = getattr(last, "error_message", None) or (
        f"{type(last).__name__}: {last}" if last is not placed[-1] else ""
    )
    if not said:  # without a cause or words of its own, what it says ends with its message
        said = text.splitlines()[-1] if text else kind
    return one_line(f"{type(placed[-1]).__name__} in `{_line(placed[-1])}`: {said}")


def _line(error: BaseException) -> str:
    """The line of the kernel that an error of Triton's front end is about, or ""."""
    node, source = getattr(error, "node", None), getattr(error, "src", None)
    number = getattr(node, "lineno", 0)
    lines = source.splitlines() if isinstance(source, str) else []
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""


def reason(outcome: Outcome) -> str:
    """One line for a task that gave no value."""
    said = _said(outcome.printed)
    if outcome.raised:
        vague = "PassManager::run failed" in outcome.raised  # what failed was only printed
        return f"{outcome.raised}: {said}" if vague and said else outcome.raised
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
    """The first error of its report, or the first line of what Triton says about it."""
    found = re.search(r"^ptxas\S* .*?(?:error|fatal)\s*: (.+)$", text, re.MULTILINE)
    return one_line(found[1] if found else text.splitlines()[0] if text else "failed")
