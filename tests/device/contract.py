"""The public driver contract as text: what a third party's driver may rely on. `python tests/device/contract.py` writes the file.

One line for each name with its signature. Names that begin with an underscore are no part of it, except the hooks that a driver
writes.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import msgspec

import qkdd.device
from qkdd.device import config, driver, errors, facts, fields, lines, registry, roles, serial_link, tags, transport
from qkdd.testing import contract, replay, wires

FOLDER = Path(__file__).with_name("contracts")
HOOKS = {"_identify", "_start", "_make_safe", "_ping", "_connect"}
MODULES = (config, driver, errors, facts, fields, lines, roles, serial_link, tags, transport, contract, replay, wires)


def surface() -> list[str]:
    """Sorted lines."""
    found = [f"qkdd.device.{name}" for name in qkdd.device.__all__]
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                found += _class(f"{module.__name__}.{name}", value)
            elif inspect.isfunction(value):
                found.append(f"{module.__name__}.{name}{_signature(value)}")
    return sorted(set(found))


def _class(path: str, kind: type) -> list[str]:
    found = [f"class {path}({', '.join(base.__name__ for base in kind.__bases__)})"]
    if dataclasses.is_dataclass(kind):
        found += [f"{path}.{f.name}: {f.type}" for f in dataclasses.fields(kind)]
    elif issubclass(kind, msgspec.Struct):
        found += [f"{path}.{name}" for name in kind.__struct_fields__]
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in HOOKS:
            continue
        if isinstance(value, property):
            found.append(f"{path}.{name}: property{_signature(value.fget)}")
        elif isinstance(value, (classmethod, staticmethod)):
            found.append(f"{path}.{name}{_signature(value.__func__)}")
        elif inspect.isfunction(value):
            found.append(f"{path}.{name}{_signature(value)}")
        elif name == "code":
            found.append(f"{path}.code = {value}")
    return found


def _signature(value: Any) -> str:
    mark = " async" if inspect.iscoroutinefunction(value) else ""
    return f"{inspect.signature(value)}{mark}"


def file(version: tuple[int, int]) -> Path:
    return FOLDER / f"{version[0]}.{version[1]}.txt"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    file(registry.CONTRACT_VERSION).write_text("\n".join(surface()) + "\n", encoding="utf-8")
