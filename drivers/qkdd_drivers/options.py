"""The `options` table of a device: read against a driver's own table of names and usual values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkdd.device.errors import DeviceConfigError


def read_options(device: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The usual values with the given ones put in. Raises DeviceConfigError naming an unknown key or a wrong type."""
    for key, value in given.items():
        if key not in usual:
            raise DeviceConfigError(
                f"devices.{device}.options.{key}: unknown; known are {', '.join(sorted(usual)) or 'none'}"
            )
        wanted = type(usual[key])
        fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise DeviceConfigError(f"devices.{device}.options.{key}: {value!r} is no {wanted.__name__}")
    return {**usual, **given}
