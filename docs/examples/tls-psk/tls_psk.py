#!/usr/bin/env python3
"""TLS 1.3 under a key of the quantum link: external pre-shared key (RFC 8446, 4.2.11), ETSI GS QKD 014 at both ends.

    tls_psk.py serve   ENDS.json bob   127.0.0.1:4433 COMMAND...   # COMMAND's standard input and output are the connection
    tls_psk.py connect ENDS.json alice 127.0.0.1:4433              # ours are

The client draws a key and names it, by its key ID, as PSK identity in its ClientHello. The server reads that name from the
ClientHello, fetches the key with this ID from its own KMS, and only then lets OpenSSL answer. Both ends prove that they hold the
key (binder, Finished), so the ID is authenticated with it. A key is drawn for each connection and used once. Standard library
and the program `openssl` (3.0 or later); the key goes to it through an anonymous file, not as an argument.
"""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
import uuid

SUITE = bytes.fromhex("1302")  # TLS_AES_256_GCM_SHA384


def ask(end: dict, path: str, body: dict) -> dict:
    """One call of the KMS of this site; the only key of its answer."""
    context = ssl.create_default_context(cafile=end["trust"])
    context.load_cert_chain(end["certificate"], end["key"])
    url = urllib.parse.urlsplit(end["url"] + path)
    line = http.client.HTTPSConnection(url.netloc, context=context, timeout=10)
    try:
        line.request("POST", url.path, json.dumps(body), {"Content-Type": "application/json"})
        answer = line.getresponse()
        found = json.loads(answer.read())
    finally:
        line.close()
    if answer.status != 200:
        raise ValueError(f"the KMS says {answer.status} {found.get('message')}")
    [key] = found["keys"]
    return key


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x81" + bytes([size])
    return bytes([tag]) + length + content


def session(key: bytes) -> int:
    """The key in the form that OpenSSL takes with -psk_session; returns a descriptor of a file that has no name."""
    fields = der(2, b"\x01") + der(2, b"\x03\x04") + der(4, SUITE) + der(4, b"") + der(4, key)
    text = base64.encodebytes(der(0x30, fields)).decode()
    descriptor = os.memfd_create("psk")
    os.write(
        descriptor, f"-----BEGIN SSL SESSION PARAMETERS-----\n{text}-----END SSL SESSION PARAMETERS-----\n".encode()
    )
    return descriptor


def openssl(words: list, key_id: str, key: bytes, **pipes: object) -> subprocess.Popen:
    descriptor = session(key)
    try:
        options = ["-tls1_3", "-psk_identity", key_id, "-psk_session", f"/proc/self/fd/{descriptor}"]
        return subprocess.Popen(["openssl", *words, *options], pass_fds=(descriptor,), **pipes)
    finally:
        os.close(descriptor)


def connect(end: dict, partner: dict, where: str) -> int:
    key = ask(end, f"/{partner['sae']}/enc_keys", {"number": 1, "size": 256})
    print(f"key {key['key_ID']}", file=sys.stderr)
    # ciphersuite: the only one whose hash is the key's; -no_ign_eof: our end of input ends the connection
    words = ["s_client", "-connect", where, "-quiet", "-no_ign_eof", "-ciphersuites", "TLS_AES_256_GCM_SHA384"]
    return openssl(words, key["key_ID"], base64.b64decode(key["key"])).wait()


def identity_of(hello: bytes) -> str:
    """First PSK identity of a ClientHello record (RFC 8446, 4.1.2 and 4.2.11). Raises ValueError."""

    def take(count: int) -> bytes:
        nonlocal at
        piece = hello[at : at + count]
        if len(piece) < count:
            raise ValueError("cut off")
        at += count
        return piece

    def number(count: int) -> int:
        return int.from_bytes(take(count), "big")

    at = 5 + 4 + 2 + 32  # record and handshake headers, version, random
    take(number(1))  # session ID
    take(number(2))  # cipher suites
    take(number(1))  # compression
    number(2)
    while True:
        kind, size = number(2), number(2)
        if kind == 41:  # pre_shared_key
            number(2)
            return take(number(2)).decode("ascii")
        take(size)


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(16384):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side has gone


def answer(line: socket.socket, end: dict, partner: dict, command: list) -> None:
    line.settimeout(10)
    head = line.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    size = 5 + int.from_bytes(head[3:5], "big")
    if head[:1] != b"\x16" or size > 16384:
        raise ValueError("no ClientHello")
    key_id = str(uuid.UUID(identity_of(line.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL))))
    key = ask(end, f"/{partner['sae']}/dec_keys", {"key_IDs": [{"key_ID": key_id}]})
    print(f"key {key_id}", file=sys.stderr)
    line.settimeout(None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    words = [
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-naccept",
        "1",
        "-quiet",
        "-nocert",
        "-ciphersuites",
        "TLS_AES_256_GCM_SHA384",
    ]
    server = openssl(words, key_id, base64.b64decode(key["key"]), stdin=program.stdout, stdout=program.stdin)
    program.stdin.close()
    program.stdout.close()
    while server.poll() is None:
        try:
            inner = socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            threading.Event().wait(0.02)
    else:
        raise OSError("openssl did not start")
    back = threading.Thread(target=pump, args=(inner, line))
    back.start()
    pump(line, inner)
    back.join()
    server.wait()
    program.wait()


def serve(end: dict, partner: dict, where: str, command: list) -> None:
    host, _, port = where.rpartition(":")
    with socket.create_server((host, int(port))) as listener:
        print(f"listening on {listener.getsockname()[1]}", file=sys.stderr, flush=True)
        while True:
            line, _ = listener.accept()
            with line:
                try:
                    answer(line, end, partner, command)
                except (ValueError, OSError) as error:
                    print(f"refused: {error}", file=sys.stderr, flush=True)


def main() -> int:
    if len(sys.argv) < 5 or sys.argv[1] not in ("serve", "connect"):
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[2], encoding="utf-8") as file:
        ends = json.load(file)["ends"]
    end = ends[sys.argv[3]]
    [partner] = [other for name, other in ends.items() if name != sys.argv[3]]
    if sys.argv[1] == "connect":
        return connect(end, partner, sys.argv[4])
    serve(end, partner, sys.argv[4], sys.argv[5:] or ["cat"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
