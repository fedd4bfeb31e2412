"""Two linked KMSs on loopback with synthetic keys, for those who write applications. INSECURE, and marked so everywhere.

No configuration file can switch this on: it has its own command, makes its own certificates and its own stores, and a store
made here is refused by `qkdd-kms run`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import uuid
from pathlib import Path
from typing import Any

import msgspec

from qkdd.core import log, units
from qkdd.core.clock import Clock, SystemClock
from qkdd.core.errors import ConfigError, InternalError, QkddError
from qkdd.core.ports import free_ports
from qkdd.core.secret import Secret
from qkdd.kms.config import KmsConfig
from qkdd.kms.errors import PeerKmsDown
from qkdd.kms.server import KmsServer
from qkdd.peer.pki_demo import CredentialPaths, DemoPki, demo_pki

_LOG = log.get("kms")

SITES = ("alice", "bob")
_LINK = "synthetic"
_LISTENERS = ("sae.classical", "sae.post-quantum", "kms_plane", "node_plane", "metrics")
_CHUNK_BYTES = 16_384
_LEVEL_BYTES = 1 << 17  # of key that each site can draw
_PERIOD = 0.5
_ATTEMPTS = 20

_PYTHON_EXAMPLE = '''"""Fetch one key at both ends with nothing but the standard library. Synthetic key: no secret."""

import json
import ssl
import urllib.request

ENDS = {ends!r}


def call(end, path, body=None):
    context = ssl.create_default_context(cafile=end["trust"])
    context.load_cert_chain(end["certificate"], end["key"])
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(end["url"] + path, data, {{"Content-Type": "application/json"}})
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)


key = call(ENDS["alice"], "/sae-bob/enc_keys", {{"number": 1, "size": 256}})["keys"][0]
same = call(ENDS["bob"], "/sae-alice/dec_keys", {{"key_IDs": [{{"key_ID": key["key_ID"]}}]}})["keys"][0]
print(key["key_ID"], "equal" if key["key"] == same["key"] else "DIFFERENT", key["key_extension"])
'''


class DevPair:
    """`await start()`, `facts()`, `await stop()`. `port` 0 takes free ports. Raises ConfigError for a used directory."""

    def __init__(self, directory: Path, port: int = 0, clock: Clock | None = None) -> None:
        self.directory = directory.absolute()
        self._clock: Clock = clock or SystemClock()
        count = len(SITES) * len(_LISTENERS)
        numbers = list(range(port, port + count)) if port else free_ports(count)
        self.ports = {
            site: dict(zip(_LISTENERS, numbers[i * len(_LISTENERS) :], strict=False)) for i, site in enumerate(SITES)
        }
        self.servers: dict[str, KmsServer] = {}
        self._pki: DemoPki | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._index = 0

    async def start(self) -> None:
        """Make certificates and examples, start both KMSs, fill their pools."""
        if self.directory.exists() and any(self.directory.iterdir()):
            raise ConfigError(f"{self.directory} is not empty", remedy="name a new directory, or remove this one")
        self._pki = pki = await asyncio.to_thread(demo_pki, self.directory / "pki", clock=self._clock)
        (self.directory / "INSECURE").write_text("Synthetic keys and throw-away certificates of qkdd-kms dev-pair.\n")
        self._write_examples()
        for site in SITES:
            server = KmsServer(self._config(pki, site), self._clock, synthetic=True)
            self.servers[site] = server
            await server.start()
        await self._first_fill()
        self._feeder = asyncio.create_task(self._feed())

    async def stop(self) -> None:
        """Idempotent."""
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.cancel()
            await asyncio.wait([feeder])
        for server in self.servers.values():
            await server.stop()

    def facts(self) -> dict[str, Any]:
        """What a developer needs, as printed: where to ask with which certificate."""
        return {
            "insecure": "synthetic keys; for development only",
            "directory": str(self.directory),
            "ends": self._ends("sae.classical"),
            "ends_post_quantum": self._ends("sae.post-quantum"),
            "metrics": {site: f"http://127.0.0.1:{self.ports[site]['metrics']}/metrics" for site in SITES},
            "examples": [str(self.directory / "fetch.sh"), str(self.directory / "fetch.py")],
        }

    def _ends(self, listener: str) -> dict[str, dict[str, str]]:
        if self._pki is None:
            raise InternalError("the pair was not started")
        found = self._pki.classical if listener == "sae.classical" else self._pki.post_quantum
        return {
            site: {
                "sae": f"sae-{site}",
                "url": f"https://127.0.0.1:{self.ports[site][listener]}/api/v1/keys",
                "certificate": str(found[f"sae-{site}"].certificate),
                "key": str(found[f"sae-{site}"].key),
                "trust": str(found[f"sae-{site}"].trust),
            }
            for site in SITES
        }

    def _write_examples(self) -> None:
        ends = self._ends("sae.classical")
        (self.directory / "fetch.py").write_text(_PYTHON_EXAMPLE.format(ends=ends), encoding="utf-8")

        def curl(site: str) -> str:
            end = ends[site]
            options = ("--cacert", end["trust"], "--cert", end["certificate"], "--key", end["key"])
            return "curl --silent --show-error --fail " + " ".join(map(shlex.quote, options))

        script = self.directory / "fetch.sh"
        script.write_text(
            "#!/bin/sh\n# Draw a key at alice, fetch the same at bob. Synthetic key: no secret.\nset -e\n"
            f'answer=$({curl("alice")} "{ends["alice"]["url"]}/sae-bob/enc_keys?number=1&size=256")\n'
            'echo "alice: $answer"\n'
            'id=$(printf %s "$answer" | sed \'s/.*"key_ID": *"\\([^"]*\\)".*/\\1/\')\n'
            f'echo "bob:   $({curl("bob")} "{ends["bob"]["url"]}/sae-alice/dec_keys?key_ID=$id")"\n',
            encoding="utf-8",
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def _config(self, pki: DemoPki, site: str) -> KmsConfig:
        other, own, ports = SITES[1 - SITES.index(site)], f"kms-{site}", self.ports[site]

        def listener(name: str, paths: CredentialPaths) -> dict[str, str]:
            files = {n: str(getattr(paths, n)) for n in ("certificate", "key", "trust", "crl")}
            return {"listen": f"127.0.0.1:{ports[name]}", **files}

        post_quantum, classical = pki.post_quantum[own], pki.classical[own]
        tree = {
            "kms": {
                "id": own,
                "state_directory": str(self.directory / "state" / site),
                "master_key": str(pki.master_keys[own]),
                "metrics": f"127.0.0.1:{ports['metrics']}",
            },
            "node_plane": {**listener("node_plane", post_quantum), "nodes": []},  # no node may push real key
            "kms_plane": listener("kms_plane", post_quantum),
            "peers": {f"kms-{other}": {"url": f"https://127.0.0.1:{self.ports[other]['kms_plane']}", "links": [_LINK]}},
            "sae": {
                "post-quantum": {
                    **listener("sae.post-quantum", post_quantum),
                    "interfaces": ["etsi014", "skip", "etsi004"],
                },
                "classical": {**listener("sae.classical", classical), "interfaces": ["etsi014", "skip", "etsi004"]},
            },
            "saes": {f"sae-{site}": {}},
            "pairs": [
                {"master": f"sae-{site}", "slave": f"sae-{slave}", "peer": f"kms-{other}"}
                for slave in (other, site)  # itself too: some test programs draw and fetch with one certificate
            ],
        }
        return msgspec.convert(tree, KmsConfig, dec_hook=units.dec_hook)

    async def _first_fill(self) -> None:
        """One site may have called the other a moment before that listened, and waits a little before it calls again."""
        for _ in range(_ATTEMPTS):
            try:
                await self._fill()
            except PeerKmsDown:
                await self._clock.sleep(_PERIOD)
            else:
                return
        await self._fill()

    async def _feed(self) -> None:
        while True:
            await self._clock.sleep(_PERIOD)
            try:
                await self._fill()
            except QkddError as error:
                _LOG.warning("the pools are filled later", **log.error_fields(error))

    async def _fill(self) -> None:
        """Synthetic chunks into both sites until each owns enough."""
        services = {site: s.service for site, s in self.servers.items() if s.service is not None}
        for site, service in services.items():
            other = SITES[1 - SITES.index(site)]
            missing = _LEVEL_BYTES - (await service.pool(f"kms-{other}")).get(service.own, 0)
            for _ in range(max(0, -(-missing // _CHUNK_BYTES))):
                chunk_id, material = str(uuid.uuid4()), os.urandom(_CHUNK_BYTES)
                index = 2 * self._index + SITES.index(site)  # its owner, see qkdd.kms.chunks.first_owner
                self._index += 1
                for there in services.values():
                    about: dict[str, object] = {"class": "insecure-synthetic"}
                    await there.ingest("synthetic", chunk_id, _LINK, index, Secret(material), about)
        for service in services.values():
            await service.sync_once()
