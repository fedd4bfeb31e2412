"""What the terminal shows: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qkdd_hil.demo.figures import Block, Delivery
from qkdd_hil.demo.watch import NodeWatch, finished_blocks

EVENTS_SHOWN = 12
PLAIN_PERIOD = 5.0  # s between two lines of state
_NUMBERS = (
    ("qber", "QBER", "{:.2%}"),
    ("visibility_z", "visibility Z", "{:.3f}"),
    ("visibility_x", "visibility X", "{:.3f}"),
    ("chsh_s_inferred", "CHSH (inferred)", "{:.3f}"),
    ("offset_s", "clock offset", "{:+.6f} s"),
    ("drift", "clock drift", "{:+.3e}"),
    ("clicks_per_s", "clicks", "{:,.0f}/s"),
    ("coincidences_per_s", "coincidences", "{:,.0f}/s"),
    ("sifted_bits_per_s", "sifted key", "{:,.0f} bit/s"),
    ("secret_bits_per_s", "secret key", "{:,.0f} bit/s"),
)


class Display:
    """Context manager. `refresh` draws the state, `event` takes a daemon's event, `say` a line of our own. `rows`: further
    numbers that the variant has to show, title and value."""

    def __init__(
        self, nodes: Sequence[NodeWatch], *, live: bool, rows: Callable[[], Sequence[tuple[str, str]]] = tuple
    ) -> None:
        self._nodes, self._rows = nodes, rows
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if live and self._console.is_terminal else None
        self._lines: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._began = time.monotonic()
        self._next_plain = PLAIN_PERIOD
        self._deliveries: list[Delivery] = []

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self.refresh()
            self._live.stop()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def event(self, node: str, event: dict[str, Any]) -> None:
        """A daemon's event."""
        fields = " ".join(f"{k}={_short(v)}" for k, v in (event.get("fields") or {}).items() if v is not None)
        self._put(f"{node:<6} {event['kind']} {fields}".rstrip())

    def say(self, text: str) -> None:
        """A line of the demonstration itself; stays on the screen."""
        if self._live is not None:
            self._live.console.print(text, markup=False)
        else:
            self._print(text)

    def delivered(self, delivery: Delivery) -> None:
        """Both applications hold a key."""
        self._deliveries.append(delivery)
        same = "the same key" if delivery.equal else "DIFFERENT KEYS"
        self._put(f"applications hold {same} {delivery.key_id} ({delivery.listener} listener)")

    def _put(self, line: str) -> None:
        if self._live is None:
            self._print(line)
        else:
            self._lines.append(f"{self._elapsed():7.1f} s  {line}")

    def _print(self, line: str) -> None:
        self._console.print(f"{self._elapsed():7.1f} s  {line}", markup=False)

    def refresh(self) -> None:
        """Draw, or on a plain output say how it stands every few seconds."""
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif self._elapsed() >= self._next_plain:
            self._next_plain = self._elapsed() + PLAIN_PERIOD
            self._print(self._state_line())

    def _blocks(self) -> list[Block]:
        return finished_blocks(self._nodes[0], self._nodes[1])

    def _state_line(self) -> str:
        link = self._nodes[0].link
        numbers = [f"{title} {form.format(link[key])}" for key, title, form in _NUMBERS if link.get(key) is not None]
        blocks = self._blocks()
        accepted = sum(b.accepted for b in blocks)
        state = f"link {link.get('state', 'not up')}; blocks {accepted} accepted, {len(blocks) - accepted} refused"
        numbers += [f"{title} {value}" for title, value in self._rows()]
        return ", ".join([state, *numbers, f"keys delivered {len(self._deliveries)}"])

    def _picture(self) -> RenderableType:
        return Group(self._parts(), self._link(), Panel(Text("\n".join(self._lines)), title="events"))

    def _parts(self) -> Table:
        table = Table(title=f"qkdd demonstration, {self._elapsed():.0f} s", expand=True)
        for title in ("node", "state", "parts"):
            table.add_column(title)
        for node in self._nodes:
            parts = Text()
            for part in node.status.get("parts", []):
                colour = "green" if part["state"] == "up" else "yellow"
                parts.append(f"{part['name']} {part['state']}  ", style=colour)
            table.add_row(node.name, node.status.get("state", "starting"), parts)
        return table

    def _link(self) -> Table:
        table = Table(expand=True, show_header=True)
        table.add_column("link")
        for node in self._nodes:
            table.add_column(node.name, justify="right")
        table.add_row("state", *(str(node.link.get("state", "-")) for node in self._nodes))
        further = self._rows()
        for key, title, form in _NUMBERS:
            values = [node.link.get(key) for node in self._nodes]
            if further and all(value is None for value in values):
                continue  # a number of another protocol
            table.add_row(title, *("-" if value is None else form.format(value) for value in values))
        for title, shown in further:
            table.add_row(title, shown, "")
        blocks = self._blocks()
        accepted = sum(b.accepted for b in blocks)
        codes = sorted({b.code or "?" for b in blocks if not b.accepted})
        table.add_row("blocks accepted", str(accepted), "")
        table.add_row("blocks refused", str(len(blocks) - accepted), " ".join(codes))
        table.add_row("keys delivered", str(len(self._deliveries)), "")
        return table


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
