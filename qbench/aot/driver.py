"""Recording launches: a stand-in for Triton's driver, under which launching a kernel notes it down and runs nothing.

    with recording("sm_90") as launches:
        my_quantizer(torch.empty(4096, 8192))
    build(launches)

Triton's own front end does the work of a launch up to the compilation: it binds the arguments, specializes them
(divisible by 16, equal to 1), completes the options and calls the grid. An autotuned kernel is launched once, with
the first configuration that its pruning leaves. Kernels run nowhere, so what a launcher reads from a result is
uninitialised memory. In a process started with TRITON_INTERPRET, interpreted kernels are exchanged for compilable
ones meanwhile (qbench.interpreter.compiled).
"""

from __future__ import annotations

import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from qbench.aot.closures import with_compilable_closure
from qbench.aot.launch import Compilation, Launch, specialized
from qbench.aot.pretend import DEVICE, on_device
from qbench.aot.target import Target, get_target
from qbench.interpreter import swap


@contextmanager
def recording(target: str | Target) -> Iterator[list[Launch]]:
    """While this lasts, launches are appended to the list given and nothing is run. Put back also after an error."""
    recorder = _Recorder(get_target(target))
    with ExitStack() as stack:
        stack.enter_context(compilable())
        stack.callback(recorder.forget)
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", _Driver(recorder.target)))
        stack.enter_context(
            mock.patch.object(JITFunction, "_do_compile", lambda fn, *args: recorder.compile(fn, *args))
        )
        stack.enter_context(mock.patch.object(InterpretedFunction, "run", _run_compiled))
        stack.enter_context(mock.patch.object(Autotuner, "run", _run_first(Autotuner.run)))
        stack.enter_context(mock.patch.object(Autotuner, "_bench", return_value=[0.0, 0.0, 0.0]))
        stack.enter_context(
            mock.patch.object(Autotuner, "check_disk_cache", lambda tuner, key, configs, run: run())
        )
        stack.enter_context(on_device(recorder.target))
        yield recorder.launches


@contextmanager
def compilable() -> Iterator[None]:
    """While this lasts, kernels that this process interprets can be compiled. Cheap where it interprets none."""
    if not triton.knobs.runtime.interpret and type(triton.language.sum) is JITFunction:
        yield
        return
    modules = [each for each in list(sys.modules.values()) if isinstance(each, types.ModuleType)]
    homes = [
        m for m in modules if any(type(value) is InterpretedFunction for value in list(vars(m).values()))
    ]
    with swap.compiled(*homes):
        yield


class _Recorder:
    """Takes the place of compiling: notes the specialization, and then each launch of it with its grid."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.launches: list[Launch] = []
        self._kernels: list[Any] = []
        self._seen = Counter[str]()

    def compile(
        self,
        fn: Any,
        key: Any,
        signature: Any,
        device: Any,
        constexprs: Any,
        options: Any,
        attrs: Any,
        warmup: bool,
    ) -> _Kernel:
        self._kernels.append((fn, device))
        return _Kernel(
            self,
            Compilation(fn.ASTSource, with_compilable_closure(fn), signature, constexprs, attrs, options),
        )

    def launch(self, compilation: Compilation, grid: tuple[int, int, int], values: tuple[Any, ...]) -> None:
        fn = compilation.fn
        name = fn.fn.__name__
        self._seen[name] += 1
        self.launches.append(
            Launch(
                kernel=f"{fn.fn.__module__}.{fn.fn.__qualname__}",
                id=name if self._seen[name] == 1 else f"{name}#{self._seen[name]}",
                target=self.target,
                arguments=specialized(compilation, values),
                options={
                    name: value for name, value in vars(compilation.options).items() if name != "extern_libs"
                },
                grid=grid,
                source=fn.cache_key,
                compilation=compilation,
            )
        )

    def forget(self) -> None:
        """Take what was recorded out of the caches of the kernels."""
        for fn, device in self._kernels:
            fn.device_caches.pop(device, None)


class _Kernel:
    """What Triton takes for a compiled kernel."""

    function = None
    packed_metadata = ()

    def __init__(self, recorder: _Recorder, compilation: Compilation) -> None:
        self._recorder, self._compilation = recorder, compilation

    def launch_metadata(self, *args: Any) -> None:
        return None

    def run(self, x: int, y: int, z: int, *rest: Any) -> None:
        values = rest[len(rest) - len(self._compilation.fn.params) :]
        self._recorder.launch(self._compilation, (int(x), int(y), int(z)), values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a launcher asks for {name!r} of a compiled kernel, which does not exist while launches are recorded; "
            "decide the launch without it"
        )


class _Driver:
    """Answers for a GPU that is not there; what it is asked is what Triton and launchers ask of a driver."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._device = _Device(0)
        self.utils = types.SimpleNamespace(get_device_properties=lambda device: _properties(target))

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._target.arch, self._target.warp)

    def get_current_device(self) -> _Device:
        return self._device

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        return self._target.capability

    def get_active_torch_device(self) -> torch.device:
        return DEVICE

    def get_device_interface(self) -> types.ModuleType:
        return torch.cuda

    def get_benchmarker(self) -> Any:
        return lambda kernel_call, **named: [0.0, 0.0, 0.0]

    def get_empty_cache_for_benchmark(self) -> torch.Tensor:
        return torch.empty(0)

    def clear_cache(self, cache: Any) -> None:
        pass


class _Device(int):
    """Device 0, but another key in the kernels' caches than the device 0 of the real driver."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


def _properties(target: Target) -> dict[str, int]:
    """What triton.runtime.driver.active.utils.get_device_properties tells."""
    return {
        "max_shared_mem": target.shared_bytes,
        "max_num_regs": target.registers_per_multiprocessor,
        "multiprocessor_count": target.multiprocessors,
        "warpSize": target.warp,
    }


def _run_compiled(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
    """Launch of an interpreted kernel that no module names, so that it was not exchanged."""
    return JITFunction(self.fn, **self.kwargs).run(*args, grid=grid, warmup=warmup, **named)


def _run_first(run: Any) -> Any:
    def run_first(self: Any, *args: Any, **named: Any) -> Any:
        before = dict(self.cache)
        try:
            return run(self, *args, **named)
        finally:
            self.cache.clear()
            self.cache.update(before)

    return run_first
