"""The variable QKDD_KERNELS, read when the package is imported: each case in a process of its own, once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qkdd import kernels


@pytest.fixture(scope="module")
def variant() -> None:
    """Instead of the room's: these processes choose their own."""


@pytest.mark.parametrize("name", kernels.available_variants())
def test_environment_forces_a_variant(name):
    shown = subprocess.run(
        [sys.executable, "-c", "from qkdd import kernels; print(kernels.variant())"],
        env={**os.environ, "QKDD_KERNELS": name},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip() == name


def test_an_unknown_variant_is_refused_by_name():
    failed = subprocess.run(
        [sys.executable, "-c", "import qkdd.kernels"],
        env={**os.environ, "QKDD_KERNELS": "quantum"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode != 0
    assert "QKD-KRN-VARIANT" in failed.stderr
    with pytest.raises(kernels.KernelVariant):
        kernels.select_variant("AVX2")
