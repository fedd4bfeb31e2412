"""A headless Chromium, driven by chromedriver's own W3C WebDriver interface; no client library."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
PATIENCE_S = 120.0


class Browser:
    """One session."""

    def __init__(self, port: int, path: str = "") -> None:
        self._port, self._path = port, path

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, self._path + path, data, {"Content-Type": "application/json"})
            return json.load(connection.getresponse())["value"]
        finally:
            connection.close()

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str, width: int, height: int, *, dark: bool = False, still: bool = True) -> None:
        """Load a page as a screen of this size shows it. still: the reader asked for less motion."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self.call("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value that the script returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, script: str) -> Any:
        """Ask again until the script returns something true."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.cdp("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9, "Enter": 13}[key],
                     **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}))  # fmt: skip

    def complaints(self) -> list[Any]:
        """What the browser wrote to its console since the last time."""
        found: list[Any] = self.call("POST", "/se/log", {"type": "browser"})
        return found

    def picture(self, path: Path, width: int, height: int) -> None:
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        path.write_bytes(
            base64.b64decode(self.cdp("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])
        )


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Skips the test visibly where Chromium is not installed (Debian: chromium, chromium-driver)."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("chromium and chromedriver are not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = Browser(port)
    try:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                root.call("GET", "/status")
                break
            except OSError:
                assert time.monotonic() < end, "chromedriver does not answer"
                time.sleep(0.05)
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = root.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        one = Browser(port, f"/session/{session}")
        try:
            yield one
        finally:
            one.call("DELETE", "")
    finally:
        process.terminate()
        process.wait(20)
