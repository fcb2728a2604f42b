"""One recorded launch: which kernel, specialized how, on which grid. What is compiled, and under which name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from qbench.aot.target import Target


@dataclass(frozen=True)
class Argument:
    """How the launch specialized one parameter of the kernel.

    type       Triton's name of it: "*bf16", "i32", "fp32", "constexpr"
    divisible  by 16: a pointer aligned to 16 bytes, a multiple of 16
    value      of an integer or a constexpr, also of an argument that became one (None, the integer 1)
    bytes      of the tensor behind a pointer
    """

    name: str
    type: str
    divisible: bool = False
    value: Any = None
    bytes: int | None = None

    def __str__(self) -> str:
        if self.type == "constexpr":
            return f"{self.name}={_text(self.value)}"
        return f"{self.name}: {self.type}{' %16' if self.divisible else ''}"


@dataclass(frozen=True)
class Compilation:
    """Triton's own objects for one specialization, as its front end hands them to the compiler."""

    ast_source: Any  # the class ASTSource, or Gluon's
    fn: Any
    signature: Mapping[str, Any]
    constexprs: Mapping[tuple[int, ...], Any]
    attrs: Mapping[tuple[int, ...], Any]
    options: Any


@dataclass(frozen=True)
class Launch:
    """What a launcher asked for.

    kernel     its dotted name, "package.module.kernel"
    id         short and stable: the kernel's own name, with "#2" for its second launch in a recording. It depends on
               no path, hash, line number or specialization, so a baseline is found again when those change
    arguments  in the order of the kernel's parameters
    options    of the compilation, as given by the launcher and completed by Triton: num_warps, num_stages, ...
    grid       three numbers of programs
    source     hash of the kernel's source and of all that it calls; for caches, not for comparing
    """

    kernel: str
    id: str
    target: Target
    arguments: tuple[Argument, ...]
    options: Mapping[str, Any]
    grid: tuple[int, int, int]
    source: str = field(repr=False, compare=False)
    compilation: Compilation = field(repr=False, compare=False)

    @property
    def programs(self) -> int:
        return prod(self.grid)

    @property
    def warps(self) -> int:
        return int(self.options["num_warps"])

    @property
    def divisible(self) -> tuple[str, ...]:
        """Names of the arguments specialized as divisible by 16."""
        return tuple(argument.name for argument in self.arguments if argument.divisible)

    @property
    def tensor_bytes(self) -> int:
        """Of all tensors it was given: what it can read and write but once, at most."""
        return sum(argument.bytes or 0 for argument in self.arguments)

    @property
    def constants(self) -> dict[str, Any]:
        """Parameters that are constant in the compiled kernel, with their values."""
        return {each.name: each.value for each in self.arguments if each.type == "constexpr"}

    def __str__(self) -> str:
        options = f"num_warps={self.warps}, num_stages={self.options.get('num_stages')}"
        return f"{self.id}({', '.join(map(str, self.arguments))}; {options}) for {self.target.name}"


def specialized(compilation: Compilation, values: tuple[Any, ...]) -> tuple[Argument, ...]:
    """The arguments of a launch with these values, one for each parameter; parts of a tuple one by one."""
    return tuple(
        argument
        for place, (name, kind) in enumerate(compilation.signature.items())
        for argument in _argument(compilation, (place,), name, kind, values[place])
    )


def _argument(
    compilation: Compilation, path: tuple[int, ...], name: str, kind: Any, value: Any
) -> Iterator[Argument]:
    if isinstance(kind, tuple):
        for place, part in enumerate(kind):
            yield from _argument(compilation, (*path, place), f"{name}[{place}]", part, value[place])
        return
    if kind == "constexpr":
        value = compilation.constexprs.get(path, value)
        yield Argument(name, kind, value=getattr(value, "value", value))
        return
    divisible = any(attribute == "tt.divisibility" for attribute, _ in compilation.attrs.get(path, ()))
    number = int(value) if isinstance(value, int) else None
    yield Argument(name, str(kind), divisible, number, getattr(value, "nbytes", None))


def _text(value: Any) -> str:
    """Of a constexpr, without addresses: a function by its name."""
    return str(getattr(value, "__name__", value))
