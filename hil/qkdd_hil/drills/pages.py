"""Runbook pages as a machine reads them: the fenced blocks whose first word is `sh` and whose second says what they are for.

    ```sh look            first look; looking changes nothing, so no exit code is judged
    ```sh heal NAME       what heals one cause of the page; every command must end with 0
    ```sh verify          ends with 0 when it is over; asked again until it does

A line is a command as an operator types it; `&&` joins commands. A comment behind it says where: `# this node` (as without one),
`# the other node`, `# both nodes`. A line `# by hand, KEY: words` is what no command can do, such as pulling a fibre; a drill
has hands of its own for KEY. Words in capitals are placeholders: CONFIG, KMS-CONFIG, STATE, of the node where the command runs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

Purpose = Literal["look", "heal", "verify"]
Where = Literal["this node", "the other node", "both nodes"]

PURPOSES = ("look", "heal", "verify")
PLACES = ("this node", "the other node", "both nodes")
PLACEHOLDERS = ("PSK-CONFIG", "KMS-CONFIG", "CONFIG", "STATE")
PROGRAMS = ("qkdctl", "qkdd", "qkdd-kms", "qkd-psk", "systemctl", "journalctl", "shred")
_FENCE = re.compile(r"^```(\S+)?(?:[ \t]+(.*))?$")
_BY_HAND = re.compile(r"^# by hand, ([a-z][a-z-]*): (\S.*)$")
_CAPITALS = re.compile(r"(?<![A-Za-z])[A-Z][A-Z-]+(?![a-z])")


class PageProblem(Exception):
    """A page that a machine cannot follow; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command line. words: as a shell would split it, placeholders still in them."""

    text: str
    words: tuple[str, ...]
    where: Where = "this node"


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person has to do."""

    key: str
    text: str


Step = Command | ByHand


@dataclass(frozen=True, slots=True)
class Page:
    """What a drill needs of a runbook page. heal: steps by the cause's name, "" for the only one."""

    name: str
    title: str
    look: tuple[Step, ...]
    heal: dict[str, tuple[Step, ...]]
    verify: tuple[Step, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them."""
        return (*self.look, *(step for steps in self.heal.values() for step in steps), *self.verify)


def folder() -> Path | None:
    """Where this installation has its runbooks: the repository's, or the package's documentation; None without either."""
    for place in (Path(__file__).parents[3] / "docs/runbooks", Path("/usr/share/doc/qkdd/docs/runbooks")):
        if place.is_dir():
            return place
    return None


def read(path: Path) -> Page:
    """Raises PageProblem, OSError."""
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Page:
    """Raises PageProblem."""
    blocks: dict[tuple[str, str], list[Step]] = {}
    title, inside = name, None
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if (fence := _FENCE.match(line)) is not None:
            fenced = not fenced
            inside = None
            if fenced and fence[1] == "sh":
                inside = _open(blocks, (fence[2] or "").split(), f"{name}, line {number}")
        elif inside is not None and line.strip():
            inside += _steps(line.strip(), f"{name}, line {number}")
        elif not fenced and line.startswith("# ") and title == name:
            title = line.removeprefix("# ")
    if fenced:
        raise PageProblem(f"{name}: the last fence is not closed")
    heal = {key: tuple(steps) for (purpose, key), steps in blocks.items() if purpose == "heal"}
    return Page(name, title, tuple(blocks.get(("look", ""), ())), heal, tuple(blocks.get(("verify", ""), ())))


def _open(blocks: dict[tuple[str, str], list[Step]], words: list[str], where: str) -> list[Step] | None:
    """The list that a block's steps go into; None for a block that is only for people."""
    if not words:
        return None
    purpose, *key = words
    if purpose not in PURPOSES or len(key) > (purpose == "heal"):
        raise PageProblem(f"{where}: a block is `look`, `heal NAME` or `verify`, not {' '.join(words)!r}")
    place = (purpose, key[0] if key else "")
    if place in blocks:
        raise PageProblem(f"{where}: a second block {' '.join(words)!r}")
    return blocks.setdefault(place, [])


def _steps(line: str, where: str) -> list[Step]:
    if (hand := _BY_HAND.match(line)) is not None:
        return [ByHand(hand[1], hand[2])]
    if line.startswith("#"):
        raise PageProblem(f"{where}: write `# by hand, KEY: words`, not {line!r}")
    text, _, comment = line.partition("#")
    place = comment.strip() or "this node"
    if place not in PLACES:
        raise PageProblem(f"{where}: a comment is one of {', '.join(PLACES)}, not {place!r}")
    found: list[Step] = []
    for part in text.split("&&"):
        try:
            words = shlex.split(part)
        except ValueError as error:
            raise PageProblem(f"{where}: {part.strip()!r}: {error}") from None
        if not words or words[0] not in PROGRAMS:
            raise PageProblem(f"{where}: {part.strip()!r} begins with none of {', '.join(PROGRAMS)}")
        if unsafe := [word for word in words if re.search(r"[|;<>$`*?]", word)]:
            raise PageProblem(f"{where}: {unsafe[0]!r} needs a shell, and a drill has none")
        for word in words:
            if unknown := [capital for capital in _CAPITALS.findall(word) if capital not in PLACEHOLDERS]:
                raise PageProblem(f"{where}: no drill can fill {unknown[0]}; it knows {', '.join(PLACEHOLDERS)}")
        found.append(Command(part.strip(), tuple(words), cast(Where, place)))
    return found
