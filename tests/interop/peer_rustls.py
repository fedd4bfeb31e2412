"""One end of a TLS 1.3 connection by rustls: peer_rustls.py client|server HOST:PORT CERTIFICATE KEY TRUST GROUP.

Through memory BIOs: the blocking sockets of rtls 2026.9.21 hang as a client that sends long certificates (ML-DSA-87).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import rtls

T = TypeVar("T")


def main() -> None:
    mode, address, certificate, key, trust, _group = sys.argv[1:]  # the other end allows one group: there is no setter
    host, _, port = address.rpartition(":")
    serving = mode == "server"
    context = rtls.SSLContext(rtls.PROTOCOL_TLS_SERVER if serving else rtls.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=trust)
    context.load_cert_chain(certificate, key)
    context.verify_mode = rtls.CERT_REQUIRED
    if serving:
        listener = socket.create_server((host, int(port)))
        print("{}:{}".format(*listener.getsockname()), flush=True)
        plain, _ = listener.accept()
        listener.close()
    else:
        plain = socket.create_connection((host, int(port)))
    say, expect = (b"pong", b"ping") if serving else (b"ping", b"pong")
    incoming, outgoing = rtls.MemoryBIO(), rtls.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=serving, server_hostname=None if serving else "localhost")

    def until(step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except rtls.SSLWantReadError:
                if written := outgoing.read():
                    plain.sendall(written)
                    continue  # it may have more to say: a flight of ML-DSA-87 comes out in pieces
                data = plain.recv(65536)
                if not data:
                    sys.exit("the other end closed the connection")
                incoming.write(data)
            finally:
                plain.sendall(outgoing.read())

    until(tls.do_handshake)
    if not serving:
        tls.write(say)
    if until(lambda: tls.read(4)) != expect:
        sys.exit("heard something else")
    if serving:
        tls.write(say)
    plain.sendall(outgoing.read())
    print(tls.version(), tls.cipher())
    plain.close()


if __name__ == "__main__":
    main()
