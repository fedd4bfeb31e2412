"""The status page in a real browser: draws, follows, warns, fits a phone, works by keyboard, loads nothing else."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qkdd.control import views
from qkdd.control.status_page import PageServer
from qkdd.core.clock import SystemClock

pytestmark = pytest.mark.slow


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


fake_node, chromium = _load("fake_node"), _load("chromium")

DECOY = msgspec.structs.replace(
    fake_node.LINK,
    protocol="decoy_bb84",
    proof="bb84-2decoy/lim2014",
    label="not a strict bound",
    coincidences_per_s=None,
    chsh_s_inferred=None,
    pulses=views.PulsesView(
        gains=[0.046, 0.0093, 2e-4], error_rates=[0.011, 0.02, 0.5], detected_ratio=0.035, gated_ratio=0.01,
        slot_phase=1e-3, slot_phase_worst=0.012, slot_contrast=0.99, sifting_bits=7.4,
    ),
)  # fmt: skip


@contextmanager
def served(node: Any) -> Iterator[tuple[str, Any]]:
    """The page from a loop in a thread, and a function that ends it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = PageServer("127.0.0.1:0", node, SystemClock())

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)

    try:
        yield f"http://{asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)}/", stop
    finally:
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


LIVE = "return document.getElementById('live').textContent === 'live'"


def test_status_page_in_chromium(tmp_path: Path) -> None:
    node = fake_node.FakeNode(SystemClock())
    with chromium.browser(tmp_path / "profile") as page, served(node) as (url, stop):
        page.open(url, 390, 844)
        page.until(LIVE)
        assert page.run("return document.title") == "alice – qkdd"
        # fits a phone: nothing is wider than the screen, no letter of the picture is tiny, what is pressed is big enough
        assert page.run("return document.documentElement.scrollWidth") <= 390
        assert (
            page.run("const t = document.querySelector('#picture text').getBoundingClientRect(); return t.height") >= 11
        )
        assert page.run("return document.getElementById('large').getBoundingClientRect().height") >= 44
        assert "Link running, error rate 1.61" in page.run("return document.getElementById('picture-text').textContent")
        assert page.run("return document.querySelectorAll('#picture .fibre').length") == 2
        assert page.run("return document.querySelectorAll('#spark-qber polyline').length") == 1
        assert page.run("return document.querySelector('#blocks tbody tr td:nth-of-type(2)').textContent") == "accepted"
        # what a screen reader needs: language, landmarks, a name for each picture and table head
        assert page.run("return document.documentElement.lang") == "en"
        assert page.run("return document.querySelectorAll('main').length") == 1
        assert page.run("return [...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-labelledby'))")
        assert page.run("return [...document.querySelectorAll('th')].every(t => t.scope)")

        # follows what happens, without being loaded again
        node.healthy = False
        page.until("return document.querySelector('#alarms li.critical') !== null")
        assert page.run("return document.querySelector('#alarms').getAttribute('aria-live')") == "polite"
        told = page.run("return document.querySelector('#alarms li').textContent")
        assert "QKD-DEV-OFFLINE" in told
        assert "tagger on [tty]: gone" in told
        assert page.run("return document.title").startswith("(1) ")

        # alone with the keyboard: first the skip link, then the button of the alignment view
        page.run("document.activeElement.blur()")
        for _ in range(2):
            page.press("Tab")
        assert page.run("return document.activeElement.id") == "large"
        page.press("Enter")
        assert page.run("return document.getElementById('large').getAttribute('aria-pressed')") == "true"
        page.press("Enter")
        assert page.run("return document.getElementById('alignment').hidden")

        # an open link shows itself large
        node.held = True
        page.open(url, 1600, 900, dark=True)
        page.until("return document.body.classList.contains('large')")
        assert page.run("return [...document.querySelectorAll('#matrix td')].map(c => c.textContent).includes('9100')")
        assert page.run("return document.querySelectorAll('#histogram rect').length") == 96
        digits = page.run("return parseFloat(getComputedStyle(document.querySelector('#align-big b')).fontSize)")
        assert digits >= 90  # read from across the table
        dark = page.run("return getComputedStyle(document.body).backgroundColor")
        node.held = False
        page.open(url, 1200, 900)
        page.until(LIVE)
        assert page.run("return getComputedStyle(document.body).backgroundColor") != dark

        # the last stretch stays on the page, and fits any screen, large or not
        node.align_view = lambda: msgspec.structs.replace(fake_node.ALIGN, open=False, seconds_left=None)
        for width in (390, 800, 1200):
            page.open(url, width, 900)
            page.until(
                "return !document.getElementById('alignment').hidden && !document.body.classList.contains('large')"
            )
            assert page.run("return document.documentElement.scrollWidth") <= width
            page.run("document.getElementById('large').click()")
            assert page.run("return document.documentElement.scrollWidth") <= width

        # nothing came from elsewhere, the policy was not violated, the script did not fail
        loaded = page.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(name == url + "events" for name in loaded), loaded
        assert page.complaints() == []

        # a daemon that is gone is seen
        stop()
        page.until("return document.getElementById('live').textContent.startsWith('NO NEWS')")


def test_pulsed_link_in_chromium_with_its_label(tmp_path: Path) -> None:
    node = fake_node.FakeNode(SystemClock())
    plain = node.status()
    hostile = msgspec.structs.replace(plain.parts[0], name="<img src=x onerror=alert(1)>")
    node.status = lambda: msgspec.structs.replace(plain, link=DECOY, parts=[hostile])
    with chromium.browser(tmp_path / "profile") as page, served(node) as (url, _stop):
        page.open(url, 1200, 900)
        page.until(LIVE)
        assert (
            page.run("return document.getElementById('label').textContent")
            == "Secret bits and rates: not a strict bound"
        )
        assert not page.run("return document.getElementById('label').hidden")
        assert page.run("return document.querySelectorAll('#picture .fibre').length") == 1
        assert "Alice sends pulses to Bob" in page.run("return document.getElementById('picture-text').textContent")
        assert "not a strict bound" in page.run("return document.getElementById('spark-rate-text').textContent")
        assert "not a strict bound" in page.run("return document.querySelector('#blocks thead').textContent")
        assert page.run("return document.querySelectorAll('img').length") == 0  # a name from outside is text
        assert page.complaints() == []
