"""Sealed records open only at their place and unchanged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdd.core.errors import CredentialError, SealError
from qkdd.core.sealing import Sealer, create_master_key, load_master_key
from qkdd.core.secret import Secret

MASTER = Secret(bytes(range(32)))


@given(st.binary(max_size=300), st.text(max_size=20))
def test_round_trip(data: bytes, place: str) -> None:
    sealer = Sealer(MASTER, "spool")
    assert bytes(sealer.open(sealer.seal(data, place), place).reveal()) == data


@given(st.data())
def test_a_changed_record_does_not_open(data: st.DataObject) -> None:
    sealer = Sealer(MASTER, "spool")
    record = bytearray(sealer.seal(b"key material", "block/1"))
    position = data.draw(st.integers(0, len(record) * 8 - 1))
    record[position // 8] ^= 1 << (position % 8)
    with pytest.raises(SealError):
        sealer.open(bytes(record), "block/1")


def test_moved_or_foreign_records_do_not_open() -> None:
    record = Sealer(MASTER, "spool").seal(b"key material", "block/1")
    for sealer, place in [
        (Sealer(MASTER, "spool"), "block/2"),
        (Sealer(MASTER, "kms"), "block/1"),
        (Sealer(Secret(bytes(32)), "spool"), "block/1"),
    ]:
        with pytest.raises(SealError):
            sealer.open(record, place)


def test_master_key_files(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    create_master_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(load_master_key(path)) == 32
    with pytest.raises(FileExistsError):
        create_master_key(path)
    path.chmod(0o644)
    with pytest.raises(CredentialError, match="lets others read"):
        load_master_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(CredentialError, match="no master key"):
        load_master_key(path)
    with pytest.raises(CredentialError, match="cannot be read"):
        load_master_key(tmp_path / "absent")
