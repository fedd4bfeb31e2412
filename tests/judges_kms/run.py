"""Programs that are not ours against a running pair of KMSs: `make judges-kms`.

qkdsec's `doctor`, etsi-qkd-014-client's `qkd014-client`, schemathesis over docs/openapi/etsi014.json, and our own table.
Prints one line for each judge and, with --show, what it said. Exit code 1 when one finds what is not expected of it (the
reason stands beside it).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = 25


def call(words: list[str], seconds: float = 300) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    return done.returncode, done.stdout + done.stderr


def doctor(bin_: Path, end: dict[str, str]) -> tuple[bool, str, str]:
    """One warning is expected: it wants 404 for an unknown key ID, the standard (6.4) says 400."""
    words = [str(bin_ / "qkdsec"), "doctor", base(end), "-s", end["sae"], "--cert", end["certificate"]]
    _, text = call([*words, "--key", end["key"], "--ca-cert", end["trust"], "-f", "json"])
    try:
        checks = [c for c in find_results(json.loads(text[text.index("{") :])) if "status" in c]
    except ValueError:
        return False, "no report", text
    bad = [c for c in checks if str(c["status"]).lower() == "fail"]
    warned = [c for c in checks if str(c["status"]).lower() == "warn"]
    passed = len(checks) - len(bad) - len(warned)
    good = bool(checks) and not bad and len(warned) <= 1
    return good, f"{passed} pass, {len(warned)} warn, {len(bad)} fail of {len(checks)} probes", text


def find_results(report: Any) -> list[dict[str, Any]]:
    """The list of probes, wherever the report has it."""
    for value in report.values() if isinstance(report, dict) else []:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return value
    return []


def client(bin_: Path, alice: dict[str, str], bob: dict[str, str]) -> tuple[bool, str, str]:
    """Status, a key at one end, the same key at the other."""

    def words(end: dict[str, str]) -> list[str]:
        host = base(end).removeprefix("https://")
        program = str(bin_ / "qkd014-client")
        return [program, "-H", host, "-c", end["certificate"], "-k", end["key"], "-r", end["trust"]]

    code, status = call([*words(alice), "get_status", bob["sae"]])
    drawn_code, drawn = call([*words(alice), "get_key", bob["sae"]])
    ids = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", drawn)
    if code or drawn_code or not ids or "max_key_size" not in status:
        return False, "no status or no key", status + drawn
    fetched_code, fetched = call([*words(bob), "get_key_with_id", ids[0], alice["sae"]])
    values = [set(re.findall(r"[A-Za-z0-9+/]{43}=", text)) for text in (drawn, fetched)]
    same = fetched_code == 0 and bool(values[0] & values[1])
    return (
        same,
        "status, get_key, get_key_with_id: the key is equal at both ends" if same else "keys differ",
        drawn + fetched,
    )


def schemathesis(bin_: Path, end: dict[str, str]) -> tuple[bool, str, str]:
    """Without `not_a_server_error`: 503 with Retry-After is a documented answer (no key now)."""
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance"
    words = [str(bin_ / "schemathesis"), "run", str(REPOSITORY / "docs/openapi/etsi014.json"), "--url", base(end)]
    words += ["--request-cert", end["certificate"], "--request-cert-key", end["key"], "--tls-verify", end["trust"]]
    words += ["--checks", checks, "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
    code, text = call(words)
    found = re.findall(r"(\d+) (?:test cases|generated)[^\n]*", text)
    return code == 0, f"exit code {code}{', ' + found[0] + ' cases' if found else ''}", text


def conformance() -> tuple[bool, str, str]:
    """Our own table, the rows of the project's reference."""
    table = REPOSITORY / "tests/kms/test_etsi014_conformance.py"
    code, text = call([sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(table)])
    rows = re.search(r"conformance table: (\d+/\d+)", text)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", text)}
    tests = f"{counts.get('passed', 0)}/{sum(counts.values())} tests"
    return code == 0 and rows is not None, f"{rows[1] if rows else 'no'} rows, {tests}", text


def base(end: dict[str, str]) -> str:
    return end["url"].removesuffix("/api/v1/keys")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="Python of the judges' environment.")
    parser.add_argument("--show", action="store_true", help="Print what the judges said.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qkdd-judges-") as folder:
        words = [str(Path(sys.executable).with_name("qkdd-kms")), "dev-pair", f"{folder}/pair"]
        pair = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert pair.stdout is not None
            text = ""
            while not text.endswith("}\n") or text.count("{") != text.count("}"):
                line = pair.stdout.readline()
                if not line:
                    print("dev-pair did not start")
                    return 1
                text += line
            ends = json.loads(text)["ends"]
            bin_ = options.python.absolute().parent
            judged = {
                "our conformance table": conformance(),
                "qkdsec doctor": doctor(bin_, ends["alice"]),
                "qkd014-client": client(bin_, ends["alice"], ends["bob"]),
                "schemathesis": schemathesis(bin_, ends["alice"]),
            }
        finally:
            pair.terminate()
            pair.wait(20)
    for name, (good, line, said) in judged.items():
        print(f"{'good' if good else 'BAD '}  {name}: {line}")
        if options.show or not good:
            print(said)
    return 0 if all(good for good, _, _ in judged.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
