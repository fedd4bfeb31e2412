"""One end of a TLS 1.3 connection by rustls: peer_rustls.py client|server HOST:PORT CERTIFICATE KEY TRUST GROUP."""

from __future__ import annotations

import socket
import sys

import rtls


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
    with context.wrap_socket(plain, server_side=serving, server_hostname=None if serving else "localhost") as tls:
        if not serving:
            tls.sendall(say)
        if tls.recv(4) != expect:
            sys.exit("heard something else")
        if serving:
            tls.sendall(say)
        print(tls.version(), tls.cipher())


if __name__ == "__main__":
    main()
