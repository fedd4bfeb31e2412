"""Consoles of the command lines: as wide as the terminal, or wide enough for any table when the output goes elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPED_WIDTH = 160  # columns; rich would assume 80 and cut error codes


def output() -> Console:
    """Console for what was asked for."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def complaints() -> Console:
    """Console for errors, on standard error; text is taken literally."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
