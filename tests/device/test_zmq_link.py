"""ZeroMQ as a byte line, and streams of messages."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq

from qkdd.core.clock import SystemClock
from qkdd.device.transport import ByteReader, Gone, TimedOut
from qkdd.device.zmq_link import END, ZmqRequestLink, ZmqStreamsLink
from qkdd.testing.leaks import no_leaks
from qkdd.testing.wires import ByteAtATime


@contextlib.contextmanager
def server(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """A REP socket in a thread; None: it does not answer, and is opened anew."""
    context = zmq.Context()
    ending, ready, ports = threading.Event(), threading.Event(), []

    def work() -> None:
        line = context.socket(zmq.REP)
        ports.append(line.bind_to_random_port("tcp://127.0.0.1"))
        ready.set()
        while not ending.is_set():
            if not line.poll(20):
                continue
            reply = answer(line.recv())
            if reply is None:
                line.close(linger=0)
                line = context.socket(zmq.REP)
                for _ in range(200):
                    try:
                        line.bind(f"tcp://127.0.0.1:{ports[0]}")
                        break
                    except zmq.ZMQError:
                        ending.wait(0.01)
            else:
                line.send(reply)
        line.close(linger=0)

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(5)
    try:
        yield ports[0]
    finally:
        ending.set()
        thread.join()
        context.term()


def test_a_message_is_a_frame_of_the_line_also_byte_by_byte() -> None:
    with no_leaks(), server(bytes.upper) as port:
        inner = ZmqRequestLink("127.0.0.1", port)
        inner.open(2.0)
        for link in (inner, ByteAtATime(inner)):
            reader = ByteReader(link, SystemClock())
            for text in (b"*idn?", b"inpu1:thre -0.4v", b""):
                reader.ask(text + END, 2.0)
                assert reader.until(END, 2.0) == text.upper()
                reader.settled()
        inner.close()


def test_a_request_without_answer_does_not_spoil_the_next() -> None:
    said: list[bytes] = []

    def answer(message: bytes) -> bytes | None:
        said.append(message)
        return None if message == b"hang" else b"ok " + message

    with no_leaks(), server(answer) as port:
        link = ZmqRequestLink("127.0.0.1", port)
        link.open(2.0)
        reader = ByteReader(link, SystemClock())
        reader.ask(b"hang" + END, 1.0)
        with pytest.raises(TimedOut):
            reader.until(END, 0.2)
        reader.ask(b"next" + END, 2.0)
        assert reader.until(END, 5.0) == b"ok next"
        link.close()


def test_a_message_whose_end_was_lost_is_a_timeout() -> None:
    with no_leaks(), server(bytes.upper) as port:
        link = ZmqRequestLink("127.0.0.1", port)
        link.open(2.0)
        link.write(b"half", 1.0)
        with pytest.raises(TimedOut):
            link.read(10, 0.1)
        link.discard()
        link.write(b"whole" + END, 1.0)
        assert link.read(100, 2.0) == b"WHOLE" + END
        link.close()


def test_nobody_there_is_told_at_once() -> None:
    with no_leaks():
        link = ZmqRequestLink("127.0.0.1", 1)
        with pytest.raises(Gone, match="refused"):
            link.open(2.0)
        link.close()
        with pytest.raises(Gone):
            link.write(b"x" + END, 1.0)


@pytest.mark.parametrize("bind", [False, True])
def test_streams_keep_their_order_whichever_side_binds(bind: bool) -> None:
    with no_leaks():
        context = zmq.Context()
        other = [context.socket(zmq.PAIR) for _ in range(2)]
        ports = [line.bind_to_random_port("tcp://127.0.0.1") for line in other]
        link = ZmqStreamsLink("127.0.0.1", bind=bind)
        link.open(1.0)
        if bind:
            for line in other:
                line.close(linger=0)
            other = [context.socket(zmq.PAIR) for _ in range(2)]
            for _ in range(100):  # the ports are freed a little after their sockets were closed
                try:
                    link.attach(ports)
                    break
                except Gone:
                    threading.Event().wait(0.02)
            for line, port in zip(other, ports, strict=True):
                line.connect(f"tcp://127.0.0.1:{port}")
        else:
            link.attach(ports)
        for number in range(50):
            other[number % 2].send(b"%d" % number)
        found: list[tuple[int, bytes]] = []
        for _ in range(100):
            found += link.messages(0.1)
            if len(found) == 50:
                break
        assert [int(m) for n, m in found if n == 0] == list(range(0, 50, 2))
        assert [int(m) for n, m in found if n == 1] == list(range(1, 50, 2))
        link.close()
        for line in other:
            line.close(linger=0)
        context.term()
