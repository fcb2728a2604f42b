"""Bytes and matrix flops of one program, counted in Triton's IR before it is lowered.

Loads and stores are counted whole, masked lanes included: for a program in the middle of the grid, where masks let
everything through, that is what it touches. Scalars are evaluated on the way, from the launch's integer arguments
and the program's place in the grid, so that the trip counts of loops and the branches taken are known; where one is
not (it depends on loaded data), a count of what lies inside is unknown, and None.

A loop that holds no other loop or branch is counted once and multiplied; others are gone through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

_MOST_TRIPS = 20_000  # gone through one by one; a longer nest counts as unknown
_BITS = {"i1": 8, "index": 64, "bf16": 16, "tf32": 32}
_RESULT = re.compile(r"^(%[\w$.#-]+)(?::\d+)? = ")
_FUNCTION = re.compile(r'tt\.func (?:public |private )?@(?:"([^"]+)"|([\w$.-]+))\((.*)$')
_NAMES = re.compile(r"%[\w$.#-]+")
_TENSOR = re.compile(r"tensor<((?:\d+x)+)(!tt\.ptr<)?([\w]+)")
_DESCRIPTOR = re.compile(r"tensordesc<(?:tensor<)?((?:\d+x)+)()([\w]+)")
_FOR = re.compile(
    r"scf\.for(?: unsigned)? (%\S+) = (%\S+) to (%\S+) step (%[\w$.#-]+)(?: iter_args\((.*?)\) ->)?"
)
Number = int | None
Environment = dict[str, Number]


@dataclass(frozen=True)
class Cost:
    """Of one program; None where it depends on data. `iterations` is how often its innermost loop goes round."""

    bytes_read: int | None = 0
    bytes_written: int | None = 0
    flops: int | None = 0
    iterations: int | None = field(default=1, compare=False)

    def __add__(self, other: Cost) -> Cost:
        return _each(lambda a, b: None if a is None or b is None else a + b, self, other)

    def __mul__(self, times: int | None) -> Cost:
        counted = _each(
            lambda a, _: 0 if a == 0 else (None if a is None or times is None else a * times), self, self
        )
        once = self.iterations
        return replace(counted, iterations=None if once is None or times is None else max(1, once * times))


def _each(f: Callable[[Number, Number], Number], a: Cost, b: Cost) -> Cost:
    """Field by field; a sequence goes round as often as its longest part."""
    rounds = None if a.iterations is None or b.iterations is None else max(a.iterations, b.iterations)
    return Cost(
        f(a.bytes_read, b.bytes_read), f(a.bytes_written, b.bytes_written), f(a.flops, b.flops), rounds
    )


@dataclass
class _Op:
    text: str
    regions: list[list[_Op]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return re.split(r"[ ({<:]", _RESULT.sub("", self.text).lstrip('"'), maxsplit=1)[0].rstrip('"')

    @property
    def result(self) -> str:
        found = _RESULT.match(self.text)
        return found[1] if found else ""


def cost(text: str, values: Sequence[int | None], grid: tuple[int, int, int]) -> Cost:
    """Of the kernel in `text`, launched with these values of its parameters (None: not an integer)."""
    functions, public = _functions(text)
    return _Counter(functions, grid).call(public, values)


def _functions(text: str) -> tuple[dict[str, tuple[list[str], list[_Op]]], str]:
    functions: dict[str, tuple[list[str], list[_Op]]] = {}
    public = ""
    root: list[_Op] = []
    open_regions = [root]
    for raw in text.splitlines():
        line = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", raw).strip()
        if not line or line.startswith(("#", "^", "//", "module", "{-#")):
            if line.startswith("module"):
                open_regions.append(root)
            continue
        if line.startswith("}"):
            open_regions.pop()
            line = line.lstrip("})> ")
            if line.startswith(("else", "do", ", {")):
                region: list[_Op] = []
                open_regions[-1][-1].regions.append(region)
                open_regions.append(region)
            elif open_regions and open_regions[-1] and line:
                open_regions[-1][-1].text += f" {line}"
            continue
        op = _Op(line)
        open_regions[-1].append(op)
        if line.endswith("{"):
            op.regions.append([])
            open_regions.append(op.regions[0])
            if found := _FUNCTION.search(line):
                name = found[1] or found[2]
                arguments = list(re.findall(r"(%[\w$.-]+): ", found[3]))
                functions[name] = (arguments, op.regions[0])
                public = name if "tt.func public" in line or not public else public
    return functions, public


class _Counter:
    def __init__(
        self, functions: Mapping[str, tuple[list[str], list[_Op]]], grid: tuple[int, int, int]
    ) -> None:
        self._functions = functions
        self._grid = dict(zip("xyz", grid, strict=True))

    def call(self, name: str, values: Sequence[Number]) -> Cost:
        arguments, body = self._functions[name]
        known: Environment = (
            dict(zip(arguments, values, strict=True)) if len(arguments) == len(values) else {}
        )
        return self._block(body, known)

    def _block(self, ops: Sequence[_Op], known: Environment) -> Cost:
        total = Cost()
        for op in ops:
            total += self._op(op, known)
        return total

    def _op(self, op: _Op, known: Environment) -> Cost:
        name = op.name
        if name == "scf.for":
            return self._loop(op, known)
        if name == "scf.if":
            return self._branch(op, known)
        if name == "scf.while":
            return sum((self._block(each, dict(known)) for each in op.regions), Cost()) * None
        if name == "tt.call":
            callee, given = re.search(r"@\"?([\w$.-]+)", op.text), _NAMES.findall(op.text.partition("@")[2])
            assert callee is not None, op.text
            return self.call(callee[1], [known.get(each) for each in given])
        if (found := _access(name, op.text)) is not None:
            return found
        if op.result:
            known[op.result] = _scalar(name, op.text, known, self._grid)
        return Cost()

    def _loop(self, op: _Op, known: Environment) -> Cost:
        found = _FOR.search(op.text)
        if not found:
            return self._block(op.regions[0], dict(known)) * None
        variable, *bounds = found.groups()[:4]
        carried = re.findall(r"(%[\w$.-]+) = (%[\w$.#-]+)", found[5] or "")
        low, high, step = (known.get(each) for each in bounds)
        trips = None if low is None or high is None or not step else max(0, -((low - high) // step))
        body = op.regions[0]
        if trips is None or not any(each.regions and each.name.startswith("scf") for each in body):
            inside: Environment = {**known, variable: None, **{name: None for name, _ in carried}}
            return self._block(body, inside) * trips
        if trips > _MOST_TRIPS:
            return self._block(body, {**known, variable: None}) * None
        state = {name: known.get(start) for name, start in carried}
        total = Cost()
        assert low is not None and step is not None
        for trip in range(trips):
            inside = {**known, variable: low + trip * step, **state}
            total += self._block(body, inside)
            yielded = _NAMES.findall(body[-1].text) if body[-1].name == "scf.yield" else []
            state = {name: inside.get(value) for name, value in zip(state, yielded, strict=False)}
        for place, value in enumerate(state.values()):
            known[op.result if len(state) == 1 else f"{op.result}#{place}"] = value
        once = total.iterations
        return replace(total, iterations=None if once is None else max(1, once * trips))

    def _branch(self, op: _Op, known: Environment) -> Cost:
        taken = known.get(_NAMES.findall(_RESULT.sub("", op.text))[0])
        inside = [dict(known) for _ in op.regions]
        costs = [self._block(each, env) for each, env in zip(op.regions, inside, strict=True)]
        if len(costs) == 1:
            costs.append(Cost())
            inside.append({})
        if taken is None:  # the larger of the two
            return _each(lambda a, b: None if a is None or b is None else max(a, b), *costs)
        chosen = 0 if taken else 1
        if op.result and chosen < len(op.regions) and op.regions[chosen]:
            yielded = _NAMES.findall(op.regions[chosen][-1].text)
            for place, name in enumerate(yielded):
                known[op.result if len(yielded) == 1 else f"{op.result}#{place}"] = inside[chosen].get(name)
        return costs[chosen]


def _access(name: str, text: str) -> Cost | None:
    """Of an operation that touches memory or multiplies matrices."""
    kind = text.rpartition(" : ")[2]
    if name in ("tt.load", "tt.store"):
        size = _pointed(kind)
        return Cost(bytes_read=size) if name == "tt.load" else Cost(bytes_written=size)
    if name in ("tt.atomic_rmw", "tt.atomic_cas"):
        return Cost(_pointed(kind), _pointed(kind))
    if name in ("tt.descriptor_load", "tt.descriptor_gather"):
        return Cost(bytes_read=sum(_sizes(kind.rpartition("->")[2])))
    if name in ("tt.descriptor_store", "tt.descriptor_scatter", "tt.descriptor_reduce"):
        size = _sizes(kind)[-1]
        return Cost(size if name.endswith("reduce") else 0, size)
    if name in ("tt.dot", "tt.dot_scaled"):
        sides, _, result = kind.partition(" -> ")
        rows = [int(each) for each in _TENSOR.findall(result)[0][0].split("x")[:-1]]
        inner = int(_TENSOR.findall(sides)[0][0].split("x")[-2])
        packed = name == "tt.dot_scaled" and "lhs = e2m1" in text and "lhs_k_pack = false" not in text
        return Cost(flops=2 * prod(rows) * inner * (2 if packed else 1))
    return None


def _pointed(kind: str) -> int:
    """Bytes behind a tensor of pointers, or behind one pointer."""
    if found := _TENSOR.search(kind):
        return prod(int(each) for each in found[1].split("x")[:-1]) * _bits(found[3]) // 8
    found = re.search(r"!tt\.ptr<(\w+)", kind)
    return _bits(found[1]) // 8 if found else 0


def _sizes(kind: str) -> list[int]:
    found = _TENSOR.findall(kind) or _DESCRIPTOR.findall(kind)
    return [
        prod(int(each) for each in shape.split("x")[:-1]) * _bits(element) // 8 for shape, _, element in found
    ]


def _bits(element: str) -> int:
    """Of an element in memory: "f32", "i8", "bf16", "f8E4M3FN"; a bool takes a byte."""
    found = re.search(r"\d+", element)
    return _BITS.get(element) or int(found[0] if found else 8)


def _scalar(name: str, text: str, known: Environment, grid: Mapping[str, int]) -> Number:
    """The value of an integer operation on known integers; None for all else."""
    if name == "arith.constant":
        found = re.search(r"arith\.constant (?:(-?\d+) : |(true|false))", text)
        return None if not found else int(found[1]) if found[1] else int(found[2] == "true")
    if name in ("tt.get_program_id", "tt.get_num_programs"):
        axis = re.search(r"tt\.get_\w+ ([xyz])", text)
        assert axis is not None, text
        return grid[axis[1]] // 2 if name == "tt.get_program_id" else grid[axis[1]]
    if "tensor<" in text:
        return None
    body = _RESULT.sub("", text)
    values = [known.get(each) for each in _NAMES.findall(body)]
    try:
        return next(_evaluate(name, body, values), None)
    except (ZeroDivisionError, IndexError, TypeError):  # unknown operands
        return None


def _evaluate(name: str, text: str, values: list[Number]) -> Iterator[Number]:
    operation = name.removeprefix("arith.")
    if operation == "select":
        yield values[1] if values[0] else values[2] if values[0] is not None else None
    if any(each is None for each in values):
        return
    v: list[int] = [each for each in values if each is not None]
    if operation in ("extsi", "extui", "trunci", "index_cast"):
        yield v[0]
    elif operation == "cmpi":
        predicate = re.split(r"[ ,]+", text.partition("cmpi")[2].strip())[0]
        yield int(_COMPARISONS[predicate.replace("u", "s")](v[0], v[1]))
    elif operation in _INTEGERS:
        yield _INTEGERS[operation](v[0], v[1])


def _toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_INTEGERS: dict[str, Callable[[int, int], int]] = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "divsi": _toward_zero,
    "divui": lambda a, b: a // b,
    "ceildivsi": lambda a, b: -(-a // b),
    "floordivsi": lambda a, b: a // b,
    "remsi": lambda a, b: a - b * _toward_zero(a, b),
    "remui": lambda a, b: a % b,
    "minsi": min,
    "maxsi": max,
    "minui": min,
    "maxui": max,
    "andi": lambda a, b: a & b,
    "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b,
    "shli": lambda a, b: a << b,
    "shrsi": lambda a, b: a >> b,
    "shrui": lambda a, b: a >> b,
}
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}
