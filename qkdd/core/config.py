"""Strict TOML configuration: text → frozen typed objects, or every finding at once with file, line, key and remedy.

A room declares its section as `class LinkConfig(Section)` with quantities from `qkdd.core.units`; the composition root
nests them. Unknown keys, wrong units and wrong types are refused; nothing is clipped or guessed. A section's `check()` adds
findings that need more than one field.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from qkdd.core import units
from qkdd.core.errors import ConfigError

T = TypeVar("T", bound="Section")


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong: the key as a dotted path, the line in the file (0 = unknown), what, and what to do."""

    key: str
    line: int
    problem: str
    remedy: str = ""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of configuration sections."""

    def check(self) -> Iterator[tuple[str, str, str]]:
        """Yield (key relative to this section, problem, remedy) for what types alone cannot see."""
        return iter(())


class ConfigRefused(ConfigError):
    """The configuration was refused; `findings` has all of them."""

    code = "QKD-CFG-REFUSED"
    meaning = "One or more findings in a configuration file; nothing was started."
    default_remedy = "Correct the named lines and run `qkdd check-config FILE` again."

    def __init__(self, source: str, findings: list[Finding]) -> None:
        self.findings = findings
        lines = [
            f"{source}{f':{f.line}' if f.line else ''}: {f.key}: {f.problem}{f' ({f.remedy})' if f.remedy else ''}"
            for f in findings
        ]
        super().__init__("\n".join(lines), count=len(findings))


def load(path: Path, kind: type[T]) -> T:
    """Read, convert and check a configuration file. Raises ConfigRefused with every finding."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigRefused(
            str(path), [Finding("(file)", 0, f"cannot be read: {error.strerror}", "check the path and its permissions")]
        ) from None
    return parse(text, kind, str(path))


def parse(text: str, kind: type[T], source: str = "configuration") -> T:
    """As `load`, from text."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"line (\d+)", str(error))
        line = int(match.group(1)) if match else 0
        raise ConfigRefused(source, [Finding("(syntax)", line, str(error), "see https://toml.io")]) from None
    findings = list(_shape_findings(tree, kind, ""))
    if not findings:
        try:
            config = msgspec.convert(tree, kind, dec_hook=units.dec_hook)
        except msgspec.ValidationError as error:  # whatever the walk above does not know
            findings.append(Finding(_path_of(str(error)), 0, str(error)))
        else:
            findings = list(_check_findings(config, ""))
            if not findings:
                return config
    located = [f if f.line else Finding(f.key, locate(text, f.key), f.problem, f.remedy) for f in findings]
    raise ConfigRefused(source, sorted(located, key=lambda f: (f.line, f.key)))


def _path_of(message: str) -> str:
    match = re.search(r"`\$\.?([^`]*)`", message)
    return match.group(1) if match and match.group(1) else "(top)"


def _struct_of(kind: Any) -> type[Section] | None:
    candidates = [kind, *get_args(kind)] if get_origin(kind) not in (dict, list, tuple) else []
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _shape_findings(tree: Any, kind: Any, prefix: str) -> Iterator[Finding]:
    """Walk tree and type together so that every finding is reported, not only the first."""
    struct = _struct_of(kind)
    if struct is not None and isinstance(tree, dict):
        hints = typing.get_type_hints(struct, include_extras=True)
        fields = {f.encode_name: f for f in msgspec.structs.fields(struct)}
        for key in tree:
            if key not in fields:
                yield Finding(f"{prefix}{key}", 0, "unknown key", f"known here: {', '.join(sorted(fields))}")
        for name, field in fields.items():
            if name in tree:
                yield from _shape_findings(tree[name], hints[field.name], f"{prefix}{name}.")
            elif field.required:
                yield Finding(f"{prefix}{name}", 0, "is missing", "add it; the example configuration shows its form")
        return
    if get_origin(kind) is dict and isinstance(tree, dict) and _struct_of(get_args(kind)[1]) is not None:
        for key, value in tree.items():
            yield from _shape_findings(value, get_args(kind)[1], f"{prefix}{key}.")
        return
    if get_origin(kind) in (list, tuple) and isinstance(tree, list) and _struct_of(get_args(kind)[0]) is not None:
        for index, value in enumerate(tree):
            yield from _shape_findings(value, get_args(kind)[0], f"{prefix}{index}.")
        return
    try:
        msgspec.convert(tree, kind, dec_hook=units.dec_hook)
    except (msgspec.ValidationError, ValueError) as error:
        yield Finding(prefix.rstrip(".") or "(top)", 0, re.sub(r" - at `[^`]*`$", "", str(error)))


def _check_findings(section: Any, prefix: str) -> Iterator[Finding]:
    if isinstance(section, Section):
        for key, problem, remedy in section.check():
            yield Finding(f"{prefix}{key}".rstrip("."), 0, problem, remedy)
        for field in msgspec.structs.fields(section):
            yield from _check_findings(getattr(section, field.name), f"{prefix}{field.encode_name}.")
    elif isinstance(section, dict):
        for key, value in section.items():
            yield from _check_findings(value, f"{prefix}{key}.")
    elif isinstance(section, (list, tuple)):
        for index, value in enumerate(section):
            yield from _check_findings(value, f"{prefix}{index}.")


def locate(text: str, key: str) -> int:
    """Line of a dotted key in TOML text; the nearest enclosing table's line when the key is absent; 0 when unknown."""
    wanted = [part for part in key.split(".") if not part.isdigit()]
    table: list[str] = []
    best, best_depth = 0, 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        header = re.match(r"^\[\[?\s*([^\]]+?)\s*\]\]?", line)
        if header:
            table = [p.strip().strip("\"'") for p in header.group(1).split(".")]
            depth = len(table) if wanted[: len(table)] == table else 0
        else:
            assign = re.match(r"^([A-Za-z0-9_.\"'-]+)\s*=", line)
            if not assign:
                continue
            path = table + [p.strip("\"'") for p in assign.group(1).split(".")]
            depth = len(path) if wanted[: len(path)] == path else 0
        if depth > best_depth:
            best, best_depth = number, depth
    return best
