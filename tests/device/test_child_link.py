"""Programs that we supervise: bytes, exits, hangs, nothing left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from qkdd.device.child_link import ChildLink
from qkdd.device.transport import Crashed, Denied, Gone, TimedOut, Unusable
from qkdd.testing.leaks import no_leaks
from qkdd.testing.patience import PATIENCE_S, until


def program(script: str) -> ChildLink:
    return ChildLink("program:toy", (sys.executable, "-u", "-c", script))


def read_all(link: ChildLink, count: int, seconds: float = PATIENCE_S) -> bytes:
    found, end = b"", time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        found += link.read(65536, 0.2)
    return found


def test_output_and_input_are_the_line() -> None:
    with no_leaks():
        link = program("import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)")
        link.open(1.0)
        link.launch([])
        link.write(b"hello\n", 1.0)
        assert read_all(link, 6) == b"HELLO\n"
        assert link.finish(2.0) is None
        link.close()


def test_arguments_follow_the_programs_own() -> None:
    with no_leaks():
        link = program("import sys; print(sys.argv[1:])")
        link.open(1.0)
        link.launch(["-a1", "-t", "5"])
        assert read_all(link, 19).strip() == b"['-a1', '-t', '5']"
        link.close()


def test_an_end_by_itself_is_told_with_code_and_last_words() -> None:
    with no_leaks():
        link = program("import sys; print('oh no', file=sys.stderr); sys.exit(3)")
        link.open(1.0)
        link.launch([])
        with pytest.raises(Crashed, match="exit code 3: oh no"):
            read_all(link, 1)
        assert link.ended() == 3
        assert link.finish(1.0) == 3
        link.close()


def test_a_signal_is_named() -> None:
    with no_leaks():
        link = program("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        link.open(1.0)
        link.launch([])
        with pytest.raises(Crashed, match="SIGSEGV"):
            read_all(link, 1)
        link.close()


def test_one_that_will_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("ready", flush=True)
time.sleep(600)
"""
    with no_leaks():
        link = program(script)
        link.open(1.0)
        link.launch([])
        assert read_all(link, 6) == b"ready\n"
        began = time.monotonic()
        link.finish(0.3)
        assert time.monotonic() - began < PATIENCE_S  # both sleep ten minutes
        grandchild = int((tmp_path / "pid").read_text())
        until(lambda: not _runs(grandchild), "the grandchild ends")
        link.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_silent_program_is_a_timeout_of_the_reader_and_a_full_pipe_one_of_the_writer() -> None:
    with no_leaks():
        link = program("import time; time.sleep(600)")
        link.open(1.0)
        link.launch([])
        assert link.read(10, 0.05) == b""
        with pytest.raises(TimedOut):
            link.write(b"x" * (1 << 22), 0.2)
        link.close()


def test_launching_again_ends_the_one_before() -> None:
    with no_leaks():
        link = program("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
        link.open(1.0)
        link.launch([])
        first = int(read_all(link, 2))
        link.launch([])
        second = int(read_all(link, 2))
        assert first != second
        assert not _runs(first)
        link.close()


def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    with no_leaks():
        with pytest.raises(Unusable, match="there is no program"):
            ChildLink("program:none", ("/nonexistent/readevents7",)).open(1.0)
        with pytest.raises(Denied):
            ChildLink("program:plain", (str(plain),)).open(1.0)
        with pytest.raises(Gone):
            program("pass").launch([])


def test_the_child_dies_with_the_daemon(tmp_path: Path) -> None:
    """A daemon that is killed leaves no program behind that holds the instrument."""
    script = """
import sys
from qkdd.device.child_link import ChildLink
link = ChildLink("program:toy", (sys.executable, "-c", "import time; time.sleep(600)"))
link.open(1.0)
link.launch([])
print(link._child.pid, flush=True)
import time; time.sleep(600)
"""
    import subprocess

    daemon = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        assert _runs(child)
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()  # type: ignore[union-attr]
    until(lambda: not _runs(child), "the child ends")
    assert os.getpid() != child
