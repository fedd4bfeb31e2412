"""One PKI for all tests of the room, and helpers to make connections with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkdd.peer.authority import Authority
from qkdd.peer.pki import CredentialPaths, DemoPki, demo_pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    return demo_pki(tmp_path_factory.mktemp("pki"))


class Site:
    """A small PKI of one test that may be spoilt."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = Authority.create(directory / "ca", "ml-dsa-65", "test")

    def make(self, name: str, role: str = "node", **options: object) -> CredentialPaths:
        paths = CredentialPaths(
            self.directory / f"{name}.pem", self.directory / f"{name}.key", self.ca.trust_file, self.ca.crl_file
        )
        self.ca.issue(role, name, **options).write(paths.certificate, paths.key)  # type: ignore[arg-type]
        return paths


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
