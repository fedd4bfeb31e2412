"""A child process that we started: its last words are kept, its exit code is read, and it is gone when we say so."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence

from qkdd.device.transport import Denied, Gone

_KEPT_LINES = 5
_KILLED = 2.0  # seconds in which the kernel ends a process; longer only when it hangs in a driver
_unreaped: list[subprocess.Popen[bytes]] = []
_lock = threading.Lock()


class Child:
    """One running process in a process group of its own. Raises Gone or Denied when it cannot be started."""

    def __init__(
        self, command: Sequence[str], *, keep: Sequence[int] = (), stdin: int | None = None, stdout: int | None = None
    ) -> None:
        """stdin, stdout: descriptors for the child (None: nothing to read; words). keep: descriptors that it inherits."""
        _reap()
        words, child_end = os.pipe()
        os.set_blocking(words, False)
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=child_end if stdout is None else stdout,
                stderr=child_end,
                pass_fds=tuple(keep),
                start_new_session=True,
            )
        except OSError as error:
            os.close(words)
            if isinstance(error, PermissionError):
                raise Denied(f"{command[0]} may not be run") from None
            raise Gone(f"{command[0]} cannot be run ({os.strerror(error.errno or 0)})") from None
        finally:
            os.close(child_end)
        self._exit = os.pidfd_open(self._process.pid)
        self._words = words
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""
        self._mute = False  # it has closed its stderr

    def await_any(self, fds: Sequence[int], timeout: float) -> set[int]:
        """Those of some descriptors that are readable (or at their end); takes what it says meanwhile.

        Empty after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            poll = select.poll()
            for fd in fds:
                poll.register(fd, select.POLLIN)
            if not self._mute:
                poll.register(self._words, select.POLLIN)
            left = end - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(0, round(left * 1000)))}
            if self._words in ready:
                self.listen()
            if found := ready & set(fds):
                return found
            if left <= 0:
                return set()

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self) -> None:
        """Take what it has said, so that its pipe never fills; the last lines are kept."""
        while self._words >= 0:
            try:
                data = os.read(self._words, 65536)
            except BlockingIOError:
                return
            if not data:
                self._mute = True
                return
            *lines, self._partial = (self._partial + data)[-16384:].split(b"\n")
            self._lines.extend(line.decode("utf-8", "replace").strip()[:200] for line in lines if line.strip())

    def last_words(self) -> str:
        """The last lines that it said, in one; empty when it said nothing."""
        self.listen()
        partial = self._partial.decode("utf-8", "replace").strip()[:200]
        return " / ".join([*self._lines, *([partial] if partial else [])])

    def ended(self) -> int | None:
        """Exit code (negative: the number of a signal), None while it runs. It is not reaped: its group keeps its number."""
        if self._process.returncode is not None:
            return self._process.returncode
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def wait(self, seconds: float) -> None:
        """Until it has ended, at most so long."""
        poll = select.poll()
        poll.register(self._exit, select.POLLIN)
        poll.poll(max(0, round(seconds * 1000)))

    def obituary(self, what: str) -> str:
        """Why it is no longer there, for an error."""
        self.wait(0.2)  # its pipes close a moment before it ends
        code, said = self.ended(), self.last_words()
        if code is None:
            how = "closed its output"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return f"{what} {how}" + (f": {said}" if said else "")

    def signal(self, number: int) -> None:
        """To the process alone."""
        self._process.send_signal(number)

    def finish(self, patience: float) -> None:
        """Wait for its own end for `patience` seconds, then kill it and all that it started. Idempotent."""
        if self._words < 0:
            return
        self.wait(patience)
        with contextlib.suppress(ProcessLookupError):  # the group outlives its leader while it has members
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(_KILLED)
        except subprocess.TimeoutExpired:  # it hangs inside the kernel: looked after when the next one is started
            with _lock:
                _unreaped.append(self._process)
        self.listen()
        os.close(self._words)
        os.close(self._exit)
        self._words = -1


def _reap() -> None:
    with _lock:
        _unreaped[:] = [process for process in _unreaped if process.poll() is None]
