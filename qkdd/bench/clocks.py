"""Where the CPU time of a node goes: in the native kernels, in the TLS library, in the operating system, or in the rest.

`kernel`: thread CPU time inside the functions of `qkdd_native`, page faults and waiting for memory in them included. `tls`: the
same inside OpenSSL's reads and writes. `system`: all else that the operating system did for the process (random numbers, disk,
sockets, scheduling). `python`: what is left: interpreter, event loop, copies and wiping, SQLite and AES-GCM of the spool. The
four shares sum to 1. What the clocks themselves take is measured too and taken off the CPU time, not off the wall time.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from OpenSSL import SSL
from qkdd_native import bits as native_bits
from qkdd_native import cascade as native_cascade
from qkdd_native import hashing as native_hashing
from qkdd_native import ldpc as native_ldpc

from qkdd.peer import tls_engine

_NATIVE: tuple[ModuleType, ...] = (native_bits, native_cascade, native_hashing, native_ldpc)
_LIBRARY = ("SSL_read", "SSL_write", "BIO_read", "BIO_write")
_RANDOM = "random numbers"
_QUICK = ("qkdd_poly_hash_update", "qkdd_poly_hash_of")  # kernels that take no memory: a thousand calls a block


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds. faults: minor page faults. random: part of `system` that went into random numbers. measuring: what the clocks
    themselves took; it is in none of the others."""

    cpu: float
    system: float
    kernel: float
    kernel_system: float
    tls: float
    random: float
    faults: int
    measuring: float = 0.0

    def shares(self) -> dict[str, float]:
        """Of the whole CPU time; they sum to 1 (system and user time are sampled, so none is exact below a percent)."""
        system = max(0.0, self.system - self.kernel_system)
        python = max(0.0, self.cpu - self.kernel - self.tls - system)
        parts = {"kernel": self.kernel, "tls": self.tls, "system": system, "python": python}
        whole = sum(parts.values()) or 1.0
        return {name: spent / whole for name, spent in parts.items()}


class Cost(NamedTuple):
    """CPU seconds that timing itself takes: all of it, its part in the operating system, and within what was timed."""

    whole: float
    system: float
    within: float


class Spent:
    """CPU and system seconds by function name, of all threads, and how often it was called. with_system: False where a function
    never enters the system, so that many short calls cost less to time."""

    def __init__(self, *, with_system: bool = True) -> None:
        self._with_system = with_system
        self.cpu: dict[str, float] = {}
        self.system: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def clear(self) -> None:
        for name in self.cpu:
            self.cpu[name], self.calls[name] = 0.0, 0
        for name in self.system:
            self.system[name] = 0.0

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        cpu, system, calls, clock, usage = self.cpu, self.system, self.calls, time.thread_time, resource.getrusage
        cpu.setdefault(name, 0.0)
        calls.setdefault(name, 0)
        thread = resource.RUSAGE_THREAD

        def call_only(*arguments: Any) -> Any:
            start = clock()
            try:
                return function(*arguments)
            finally:
                cpu[name] += clock() - start
                calls[name] += 1

        if not self._with_system or name in _QUICK:
            return call_only
        system.setdefault(name, 0.0)

        def call(*arguments: Any) -> Any:
            before, start = usage(thread).ru_stime, clock()
            try:
                return function(*arguments)
            finally:
                cpu[name] += clock() - start
                calls[name] += 1
                system[name] += usage(thread).ru_stime - before

        return call

    def cost(self) -> Cost:
        """What timing all these calls took, by timing calls of nothing now."""
        whole = system = within = 0.0
        clock = _seconds_of(time.thread_time)
        usage = _seconds_of(lambda: resource.getrusage(resource.RUSAGE_THREAD))
        for with_system in (False, True):
            calls = sum(count for name, count in self.calls.items() if (name in self.system) is with_system)
            probe = Spent(with_system=with_system)
            whole += calls * _seconds_of(probe.timed("nothing", _nothing))
            within += calls * probe.cpu["nothing"] / probe.calls["nothing"]
            system += calls * 2 * (clock + usage * with_system)
        return Cost(whole, system, within)


def _nothing() -> None:
    return None


def _seconds_of(function: Callable[[], Any], times: int = 4000) -> float:
    """CPU time of a call, the loop around it taken off."""
    start = time.thread_time()
    for _ in range(times):
        function()
    between = time.thread_time()
    for _ in range(times):
        _nothing()
    return max(0.0, 2 * between - start - time.thread_time()) / times


class TimedLibrary:
    """A cffi library whose functions (those of `names`, or all) are timed."""

    def __init__(self, library: Any, spent: Spent, names: tuple[str, ...] | None = None) -> None:
        self._library, self._spent, self._names = library, spent, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._library, name)
        if callable(found) and (self._names is None or name in self._names):
            found = self._spent.timed(name, found)
        setattr(self, name, found)
        return found


class Clocks:
    """Install before the first session is opened; `begin` starts the count."""

    def __init__(self) -> None:
        self.kernels, self._tls, self._random = Spent(), Spent(with_system=False), Spent(with_system=False)
        self.started: tuple[float, float, float, int] | None = None

    def install(self) -> None:
        for module in _NATIVE:
            module.lib = TimedLibrary(module.lib, self.kernels)  # type: ignore[attr-defined]
            for name in ("update", "hash_of"):  # looked up once, when the module is imported
                if hasattr(module, f"_{name}"):
                    setattr(module, f"_{name}", getattr(module.lib, f"qkdd_poly_hash_{name.removeprefix('hash_')}"))
        SSL._lib = tls_engine._openssl = TimedLibrary(SSL._lib, self._tls, _LIBRARY)  # type: ignore[attr-defined]
        os.urandom = self._random.timed(_RANDOM, os.urandom)

    def begin(self) -> None:
        if self.started is None:
            self.started = _now()
            for spent in (self.kernels, self._tls, self._random):
                spent.clear()

    @property
    def wall(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self.started[0] if self.started is not None else 0.0

    def read(self) -> Split:
        _, cpu, system, faults = (after - before for after, before in zip(_now(), self.started or _now(), strict=True))
        costs = kernels, tls, random = [spent.cost() for spent in (self.kernels, self._tls, self._random)]
        measuring = sum(cost.whole for cost in costs)
        return Split(
            cpu=cpu - measuring,
            system=system - sum(cost.system for cost in costs),
            kernel=sum(self.kernels.cpu.values()) - kernels.within,
            kernel_system=sum(self.kernels.system.values()),
            tls=sum(self._tls.cpu.values()) - tls.within,
            random=sum(self._random.cpu.values()) - random.within,
            faults=int(faults),
            measuring=measuring,
        )


def _now() -> tuple[float, float, float, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic(), usage.ru_utime + usage.ru_stime, usage.ru_stime, usage.ru_minflt
