"""Man pages and bash completion of a package, made by its own programs."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PAGE = Path(__file__).with_name("manual_page.py")
_CALM = {"COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"}


def _output(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def write(tree: Path, programs: Mapping[str, tuple[str, str]], version: str, site: Path | None) -> None:
    """programs: name to module and function. site: folder of the packages that are asked; None: those of this interpreter."""
    pages, completions = tree / "usr/share/man/man1", tree / "usr/share/bash-completion/completions"
    pages.mkdir(parents=True)
    completions.mkdir(parents=True)
    place = "" if site is None else str(site)
    for name, (module, function) in programs.items():
        text = _output([sys.executable, "-I", str(_PAGE), place, name, module, version], **_CALM)
        with gzip.GzipFile(pages / f"{name}.1.gz", "wb", 9, mtime=0) as file:
            file.write(text.encode())
        code = (
            f"import sys; {f'sys.path.insert(0, {place!r}); ' if place else ''}sys.argv[0] = {name!r}; "
            f"from {module} import {function}; {function}()"
        )
        variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
        (completions / name).write_text(_output([sys.executable, "-I", "-c", code], **{variable: "source_bash"}))
