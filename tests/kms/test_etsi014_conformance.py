"""ETSI GS QKD 014 V1.1.1 over real TLS: each row is a rule, a gap's rule or a known misreading of the reference page."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qkdd.kms import openapi
from qkdd.peer.pki_demo import DemoPki

from .sites import SITES, Sites, two_sites

Play = Callable[..., None]
U = "00000000-0000-4000-8000-000000000000"
BAD = 400
NOT_FOUND = "one or more keys specified are not found on KME"
UNMET = "not all extension_mandatory request options could be met"
MANDATORY = "not all extension_mandatory parameters are supported"

# name, method, path, body, status, message (None: any)
ROWS: list[tuple[str, str, str, Any, int, str | None]] = [
    ("empty request", "GET", "sae-bob/enc_keys", None, 200, None),
    ("number and size in the query", "GET", "sae-bob/enc_keys?number=2&size=128", None, 200, None),
    ("post without body", "POST", "sae-bob/enc_keys", None, 200, None),
    ("post with an empty object", "POST", "sae-bob/enc_keys", {}, 200, None),
    ("post of white space", "POST", "sae-bob/enc_keys", b" \r\n", 200, None),
    ("unknown members are ignored", "POST", "sae-bob/enc_keys", {"foo": 1, "key_id": 2}, 200, None),
    ("optional extension is ignored", "POST", "sae-bob/enc_keys", {"extension_optional": [{"x_y": 1}]}, 200, None),
    ("no mandatory extension", "POST", "sae-bob/enc_keys", {"extension_mandatory": []}, 200, None),
    ("percent-encoded SAE ID", "GET", "sae%2Dbob/enc_keys", None, 200, None),
    ("mandatory extension", "POST", "sae-bob/enc_keys", {"extension_mandatory": [{"abc_x": 1}]}, BAD, MANDATORY),
    (
        "class that policy allows",
        "POST",
        "sae-bob/enc_keys",
        {"extension_mandatory": [{"qkdd_class": "its"}]},
        200,
        None,
    ),
    (
        "class that policy refuses",
        "POST",
        "sae-bob/enc_keys",
        {"extension_mandatory": [{"qkdd_class": "hybrid"}]},
        BAD,
        UNMET,
    ),
    ("unknown class", "POST", "sae-bob/enc_keys", {"extension_mandatory": [{"qkdd_class": "best"}]}, BAD, UNMET),
    (
        "class twice",
        "POST",
        "sae-bob/enc_keys",
        {"extension_mandatory": [{"qkdd_class": "its"}, {"qkdd_class": "its"}]},
        BAD,
        MANDATORY,
    ),
    ("mandatory as object", "POST", "sae-bob/enc_keys", {"extension_mandatory": {"abc_x": 1}}, BAD, None),
    ("optional as object", "POST", "sae-bob/enc_keys", {"extension_optional": {"abc_x": 1}}, BAD, None),
    ("optional of texts", "POST", "sae-bob/enc_keys", {"extension_optional": ["x"]}, BAD, None),
    ("size 257", "POST", "sae-bob/enc_keys", {"size": 257}, BAD, "size shall be a multiple of 8"),
    ("size 257 with GET", "GET", "sae-bob/enc_keys?size=257", None, BAD, "size shall be a multiple of 8"),
    ("size in bytes is too small", "POST", "sae-bob/enc_keys", {"size": 32}, BAD, None),
    ("size above the limit", "POST", "sae-bob/enc_keys", {"size": 8192}, BAD, None),
    ("size 0", "POST", "sae-bob/enc_keys", {"size": 0}, BAD, None),
    ("size negative", "POST", "sae-bob/enc_keys", {"size": -8}, BAD, None),
    ("number 0", "POST", "sae-bob/enc_keys", {"number": 0}, BAD, None),
    ("number negative", "POST", "sae-bob/enc_keys", {"number": -1}, BAD, None),
    ("number true", "POST", "sae-bob/enc_keys", {"number": True}, BAD, None),
    ("number float", "POST", "sae-bob/enc_keys", {"number": 1.0}, BAD, None),
    ("number text", "POST", "sae-bob/enc_keys", {"number": "1"}, BAD, None),
    ("number null", "POST", "sae-bob/enc_keys", {"number": None}, BAD, None),
    ("number above the limit", "POST", "sae-bob/enc_keys", {"number": 129}, BAD, None),
    ("number huge", "POST", "sae-bob/enc_keys", b'{"number": 1' + b"0" * 5000 + b"}", BAD, None),
    ("query with a sign", "GET", "sae-bob/enc_keys?number=%2B1", None, BAD, None),
    ("query empty", "GET", "sae-bob/enc_keys?number=", None, BAD, None),
    ("query twice", "GET", "sae-bob/enc_keys?number=1&number=2", None, BAD, None),
    ("query of another item", "GET", "sae-bob/enc_keys?additional_slave_SAE_IDs=x", None, BAD, None),
    ("multicast is off", "POST", "sae-bob/enc_keys", {"additional_slave_SAE_IDs": ["sae-x"]}, BAD, None),
    ("additional as text", "POST", "sae-bob/enc_keys", {"additional_slave_SAE_IDs": "sae-x"}, BAD, None),
    ("additional empty", "POST", "sae-bob/enc_keys", {"additional_slave_SAE_IDs": []}, 200, None),
    ("broken JSON", "POST", "sae-bob/enc_keys", b'{"number": 1', BAD, None),
    ("an array", "POST", "sae-bob/enc_keys", [], BAD, None),
    ("a member twice", "POST", "sae-bob/enc_keys", b'{"number": 1, "number": 2}', BAD, None),
    ("NaN", "POST", "sae-bob/enc_keys", b'{"number": NaN}', BAD, None),
    ("not UTF-8", "POST", "sae-bob/enc_keys", b'{"x": "\xff"}', BAD, None),
    ("deep JSON", "POST", "sae-bob/enc_keys", b'{"x": ' + b"[" * 30 + b"]" * 30 + b"}", BAD, None),
    ("brackets in a text are not depth", "POST", "sae-bob/enc_keys", {"x": "[" * 100 + '"\\'}, 200, None),
    ("long body", "POST", "sae-bob/enc_keys", {"x": "y" * 70_000}, BAD, None),
    ("unknown slave", "GET", "sae-nobody/enc_keys", None, BAD, None),
    ("unknown slave, status", "GET", "sae-nobody/status", None, BAD, None),
    ("dec_keys of an unknown ID", "GET", f"sae-bob/dec_keys?key_ID={U}", None, BAD, NOT_FOUND),
    ("dec_keys of an unknown master", "GET", f"sae-nobody/dec_keys?key_ID={U}", None, BAD, NOT_FOUND),
    ("dec_keys without ID", "GET", "sae-bob/dec_keys", None, BAD, None),
    ("dec_keys GET of two IDs", "GET", f"sae-bob/dec_keys?key_ID={U}&key_ID={U}", None, BAD, None),
    ("dec_keys GET of another item", "GET", f"sae-bob/dec_keys?key_ID={U}&x=1", None, BAD, None),
    ("dec_keys with key_id", "GET", f"sae-bob/dec_keys?key_id={U}", None, BAD, None),
    ("bad UUID", "GET", "sae-bob/dec_keys?key_ID=1234", None, BAD, None),
    ("braced UUID", "GET", f"sae-bob/dec_keys?key_ID=%7B{U}%7D", None, BAD, None),
    ("key_IDs of texts", "POST", "sae-bob/dec_keys", {"key_IDs": [U]}, BAD, None),
    ("key_IDs empty", "POST", "sae-bob/dec_keys", {"key_IDs": []}, BAD, None),
    ("key_IDs missing", "POST", "sae-bob/dec_keys", {"key_ids": [{"key_id": U}]}, BAD, None),
    ("key_ID no text", "POST", "sae-bob/dec_keys", {"key_IDs": [{"key_ID": 7}]}, BAD, None),
    ("an ID twice", "POST", "sae-bob/dec_keys", {"key_IDs": [{"key_ID": U}] * 2}, BAD, None),
    ("too many IDs", "POST", "sae-bob/dec_keys", {"key_IDs": [{"key_ID": U}] * 129}, BAD, None),
    ("wrong path", "GET", "sae-bob/keys", None, 404, None),
    ("wrong verb", "PUT", "sae-bob/enc_keys", None, 405, None),
    ("status is GET only", "POST", "sae-bob/status", None, 405, None),
]


def test_the_table(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0, 3000)
        wrong = []
        for suite in ("post-quantum", "classical"):
            for name, method, path, body, status, message in ROWS:
                got, answer, headers = await sites.sae("alice", method, path, body, suite=suite)
                good = got == status and headers["Content-Type"].startswith("application/json")
                good = good and headers["Cache-Control"] == "no-store"
                if status == 200:
                    good = good and bool(answer["keys"])
                else:
                    good = good and isinstance(answer["message"], str) and message in (None, answer["message"])
                if not good:
                    wrong.append((suite, name, got, answer))
        total = 2 * len(ROWS)  # on both listeners
        print(f"conformance table: {total - len(wrong)}/{total}")
        assert wrong == []

    play(scenario)


def test_status_and_sizes(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0, 1000)
        await sites.feed(1, 500)
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/status")
        assert answer == {
            "source_KME_ID": "kms-alice",
            "target_KME_ID": "kms-bob",
            "master_SAE_ID": "sae-alice",
            "slave_SAE_ID": "sae-bob",
            "key_size": 256,
            "stored_key_count": 31,
            "max_key_count": 10_000_000,
            "max_key_per_request": 128,
            "max_key_size": 4096,
            "min_key_size": 64,
            "max_SAE_ID_count": 0,
        }
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys?number=3&size=1024")
        assert [len(base64.b64decode(k["key"], validate=True)) for k in answer["keys"]] == [128] * 3
        assert all(str(uuid.UUID(k["key_ID"])) == k["key_ID"] for k in answer["keys"])
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/status")
        assert answer["stored_key_count"] == (1000 - 384) // 32
        status, answer, headers = await sites.sae("alice", "GET", "sae-bob/enc_keys?number=128")
        assert (status, "Retry-After" in headers) == (503, True)  # exactly `number` keys or an error

    play(scenario)


def test_entitlement_and_all_or_nothing(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        _, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 3})
        ids = [k["key_ID"] for k in answer["keys"]]
        _, own, _ = await sites.sae("alice", "GET", "sae-alice/enc_keys")  # a loop-back pair, allowed by configuration
        # the master may not fetch at its own site, nor may the path name the slave
        assert (await sites.sae("alice", "GET", f"sae-alice/dec_keys?key_ID={ids[0]}"))[0] == 400
        status, got, _ = await sites.sae("alice", "GET", f"sae-bob/dec_keys?key_ID={own['keys'][0]['key_ID']}")
        assert (status, got["message"]) == (401, "not authorised")
        assert (await sites.sae("bob", "GET", f"sae-bob/dec_keys?key_ID={ids[0]}"))[0] == 401
        # one unknown ID: nothing is consumed
        body = {"key_IDs": [{"key_ID": i} for i in [*ids, U]]}
        assert (await sites.sae("bob", "POST", "sae-alice/dec_keys", body))[0] == 400
        # an ID is a UUID whatever its case; the answer is lower case, extensions are ignored
        body = {"key_IDs": [{"key_ID": i.upper(), "key_ID_extension": {}} for i in ids], "key_IDs_extension": {}}
        status, got, _ = await sites.sae("bob", "POST", "sae-alice/dec_keys", body)
        assert (status, got) == (200, answer)
        key = own["keys"][0]
        status, got, _ = await sites.sae("alice", "GET", f"sae-alice/dec_keys?key_ID={key['key_ID']}")
        assert (status, got["keys"]) == (200, [key])
        assert (await sites.sae("alice", "GET", f"sae-alice/dec_keys?key_ID={key['key_ID']}"))[0] == 400

    play(scenario)


def test_redelivery_window(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        path = f"sae-alice/dec_keys?key_ID={answer['keys'][0]['key_ID']}"
        for _ in range(2):
            assert (await sites.sae("bob", "GET", path))[:2] == (200, answer)
        service = sites.servers["bob"].service
        assert service is not None
        service.site._time_base += 61.0  # a minute of service time later
        assert (await sites.sae("bob", "GET", path))[0] == 400
        await service.clean()
        log = (sites.root / "bob" / "audit.log").read_text()
        assert '"again": 1' in log

    play(scenario, redelivery_window="60 s")


def test_lifetime(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        _, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys")
        service = sites.servers["bob"].service
        assert service is not None
        service.site._time_base += 61.0
        await service.clean()
        status, got, _ = await sites.sae("bob", "GET", f"sae-alice/dec_keys?key_ID={answer['keys'][0]['key_ID']}")
        assert (status, got["message"]) == (400, NOT_FOUND)

    play(scenario, key_lifetime="60 s")


def test_multicast_to_two_slaves(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        body = {"additional_slave_SAE_IDs": ["sae-alice"]}
        status, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", body)
        assert status == 200
        assert answer["keys"][0]["key_extension"] == {
            "qkdd_class": "its",
            "qkdd_links": ["a-b"],
            "qkdd_shared_with": 2,
        }
        for site in SITES:
            path = f"sae-alice/dec_keys?key_ID={answer['keys'][0]['key_ID']}"
            assert (await sites.sae(site, "GET", path))[:2] == (200, answer)
            assert (await sites.sae(site, "GET", path))[0] == 400
        assert (await sites.sae("alice", "POST", "sae-bob/enc_keys", {"additional_slave_SAE_IDs": ["sae-bob"]}))[
            0
        ] == 400

    play(scenario, max_sae_id_count=1)


def test_in_flight_limit(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0, 4000)
        results = await asyncio.gather(*(sites.sae("alice", "GET", "sae-bob/enc_keys") for _ in range(12)))
        assert {status for status, _, _ in results} == {200, 503}
        for status, answer, headers in results:
            if status == 503:
                assert headers["Retry-After"] == "1"
                assert answer["details"][0] == {"qkdd_code": "QKD-KMS-BUSY"}
        assert (await sites.sae("alice", "GET", "sae-bob/enc_keys"))[0] == 200

    play(scenario, in_flight_per_sae=1)


def test_who_may_call(play: Play) -> None:
    async def scenario(sites: Sites) -> None:
        await sites.feed(0)
        for other in (
            "sae-bob",
            "alice",
            "kms-bob",
            "kms-alice",
        ):  # certificates of our own PKI, but no SAE of this KMS
            status, answer, _ = await sites.sae("alice", "GET", "sae-bob/enc_keys", as_=other)
            assert (status, answer) == (401, {"message": "not authorised"})
        host, port = sites.servers["alice"].addresses["sae.post-quantum"]
        with pytest.raises((aiohttp.ClientError, OSError)):  # the other PKI: refused in TLS
            async with sites.client("sae-alice", "classical").get(f"https://{host}:{port}/api/v1/keys/sae-bob/status"):
                pass
        for plane, name in (("node_plane", "sae-alice"), ("kms_plane", "alice"), ("kms_plane", "sae-alice")):
            host, port = sites.servers["alice"].addresses[plane]
            with pytest.raises((aiohttp.ClientError, OSError)):  # the wrong role: refused in TLS
                async with sites.client(name).post(f"https://{host}:{port}/kms/v1/chunks", data=b"{}") as response:
                    await response.read()

    play(scenario)


def test_no_key_in_log_audit_metric_or_store(pki: DemoPki, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[str]:
        async with two_sites(pki, tmp_path) as sites:
            await sites.feed(0)
            _, answer, _ = await sites.sae("alice", "POST", "sae-bob/enc_keys", {"number": 5})
            body = {"key_IDs": [{"key_ID": k["key_ID"]} for k in answer["keys"]]}
            await sites.sae("bob", "POST", "sae-alice/dec_keys", body)
            await sites.sae("bob", "POST", "sae-alice/dec_keys", body)
            assert b"qkdd_kms_keys_drawn_total 5.0" in sites.servers["alice"].meter.text()
            return [k["key"] for k in answer["keys"]]

    keys = asyncio.run(main())
    captured = capfd.readouterr()
    everything = (captured.out + captured.err).encode() + b"".join(
        f.read_bytes() for site in SITES for f in (tmp_path / site).iterdir()
    )
    for key in keys:
        raw = base64.b64decode(key)
        for form in (raw[:16], key.encode(), raw.hex().encode(), repr(raw).encode()):
            assert form not in everything


def test_the_openapi_document_is_current_and_names_the_routes(play: Play) -> None:
    stored = Path(__file__).parents[2] / "docs" / "openapi" / "etsi014.json"
    assert json.loads(stored.read_text()) == openapi.document(), (
        "python -m qkdd.kms.openapi > docs/openapi/etsi014.json"
    )

    async def scenario(sites: Sites) -> None:
        app = sites.servers["alice"]._runners[0].app
        routes = {(r.method.lower(), r.resource.canonical) for r in app.router.routes() if r.resource is not None}
        described = {
            (verb, path) for path, item in openapi.document()["paths"].items() for verb in item if verb != "parameters"
        }
        assert routes == described
        assert all(re.search(r"\{(slave|master)\}", path) for _, path in routes)

    play(scenario)
