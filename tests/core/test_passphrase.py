"""Master keys under a passphrase: made, opened, refused, damaged; from a credential, a file, and never without either."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qkdd.core import passphrase
from qkdd.core.errors import CredentialError
from qkdd.core.sealing import create_master_key, create_successor, load_master_key
from qkdd.core.secret import Secret

WORDS = b"correct horse battery staple"


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    """Scrypt costs half a second a try; here that is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrase, "_N", 1 << 10)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "master.key"
    create_master_key(path, Secret(WORDS))
    return path


def given(words: bytes) -> passphrase.Ask:
    return lambda _path: Secret(words)


def test_opens_with_its_passphrase_and_with_no_other(file: Path) -> None:
    key = load_master_key(file, given(WORDS))
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert bytes(key.reveal()).hex().encode() not in file.read_bytes()
    assert WORDS not in file.read_bytes()
    with pytest.raises(CredentialError, match="does not open") as refused:
        load_master_key(file, given(b"wrong horse battery staple"))
    assert "horse" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1 << 30), ("n", 3), ("r", 1 << 20), ("kind", "other"), ("sealed", ""), ("salt", 7), ("more", 1)],
)
def test_damaged_and_hostile_files(file: Path, tmp_path: Path, name: str, value: object) -> None:
    other = tmp_path / "master.key"
    other.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    other.chmod(0o600)
    with pytest.raises(CredentialError):
        load_master_key(other, given(WORDS))


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="shorter"):
        create_master_key(tmp_path / "master.key", Secret(b"short"))
    assert not (tmp_path / "master.key").exists()


def test_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(CredentialError, match="no terminal"):
        passphrase.ask(tmp_path / "master.key", {})
    named = tmp_path / "words"
    named.write_bytes(WORDS + b"\n")
    named.chmod(0o644)
    with pytest.raises(CredentialError, match="lets others read"):
        passphrase.ask(tmp_path, {passphrase.VARIABLE: str(named)})
    named.chmod(0o600)
    assert bytes(passphrase.ask(tmp_path, {passphrase.VARIABLE: str(named)}).reveal()) == WORDS
    folder = tmp_path / "credentials"
    folder.mkdir()
    named.rename(folder / passphrase.CREDENTIAL)
    assert bytes(passphrase.ask(tmp_path, {"CREDENTIALS_DIRECTORY": str(folder)}).reveal()) == WORDS


def test_a_successor_is_protected_alike(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words"
    words.write_bytes(WORDS)
    words.chmod(0o600)
    monkeypatch.setitem(passphrase.os.environ, passphrase.VARIABLE, str(words))
    create_successor(tmp_path / "next", file)
    first, second = load_master_key(file), load_master_key(tmp_path / "next")
    assert bytes(first.reveal()) != bytes(second.reveal())
    assert passphrase.is_wrapped((tmp_path / "next").read_bytes())
    create_master_key(tmp_path / "plain")
    create_successor(tmp_path / "plain.next", tmp_path / "plain")
    assert not passphrase.is_wrapped((tmp_path / "plain.next").read_bytes())


def test_by_command(tmp_path: Path) -> None:
    words, key = tmp_path / "words", tmp_path / "master.key"
    words.write_bytes(WORDS)
    words.chmod(0o600)
    program = Path(sys.executable).with_name("qkdd")
    command = [program, "pki", "master-key", key, "--passphrase-file", words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(load_master_key(key, given(WORDS))) == 32
