"""Fake vendor libraries: compiled from C at first use, kept in a cache folder, and given out as a copy in a folder of its own.

A copy has the file `instrument` beside it, the memory that library and simulator share.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class NoCompiler(OSError):
    """The C compiler is missing or does not take the source."""


def cache_folder() -> Path:
    """Where compiled fakes are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "qkdd" / "fakes"


def compile_fake(source: Path, defines: Sequence[str]) -> Path:
    """The shared library of a C file; compiled when source or defines are new. Raises NoCompiler."""
    text = source.read_bytes() + "\0".join(defines).encode()
    target = cache_folder() / f"{source.parent.name}-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix="build-")
    except OSError:  # a read-only home: compile for this time only
        folder = tempfile.TemporaryDirectory(prefix="qkdd-fake-")
        target = Path(tempfile.gettempdir()) / target.name
    compiler = os.environ.get("CC", "cc")
    with folder as place:
        made = Path(place) / "fake.so"
        command = [compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", *(f"-D{d}" for d in defines)]
        try:
            subprocess.run([*command, "-o", str(made), str(source)], check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise NoCompiler(f"the fake library needs a C compiler, and there is no {compiler!r}") from None
        except subprocess.CalledProcessError as error:
            raise NoCompiler(f"{compiler} does not compile {source.name}: {error.stderr.strip()[:500]}") from None
        os.replace(made, target)  # whole or not at all: two simulators may start at once
    return target


class FakeLibrary:
    """One copy of a fake with its instrument's memory: a header of `layout` and, from `feed_at` on, `feed` words."""

    def __init__(self, built: Path, name: str, layout: np.dtype[np.void], feed_at: int, feed_words: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qkdd-sim-")
        self.path = Path(self._folder.name) / name
        self.path.parent.mkdir(exist_ok=True)
        shutil.copyfile(built, self.path)
        memory = Path(self._folder.name) / "instrument"
        memory.write_bytes(b"")
        os.truncate(memory, feed_at + 4 * feed_words)
        with memory.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), 0)
        self.header = np.frombuffer(shared, layout, 1)
        self.feed: NDArray[np.uint32] = np.frombuffer(shared, np.uint32, feed_words, feed_at)

    def close(self) -> None:
        """Remove the copy."""
        self._folder.cleanup()
