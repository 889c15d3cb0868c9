"""Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 120
_QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_CLOSED = ("--disable-background-networking", "--disable-component-update", "--no-proxy-server")


class Tab:
    """A page.

    Args:
        socket: its DevTools.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._number = socket, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=WAIT))
            if told.get("id") == self._number:
                assert "error" not in told, told
                return dict(told["result"])

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, script: str) -> Any:
        """As `run`, as soon as the value is true."""
        deadline = time.monotonic() + WAIT
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Go to an address in a window of some size, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def type(self, selector: str, text: str) -> None:
        """Write into a field, in place of what it holds, as a keyboard does."""
        self.run(f"(e => {{ e.focus(); e.select() }})(document.querySelector({json.dumps(selector)}))")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click on the first element that a selector finds."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def picture(self, file: Path) -> None:
        """Save what the window shows, as PNG."""
        import base64

        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A Chromium with one tab, whose profile lies in a folder."""
    assert CHROMIUM is not None, "no Chromium on this machine"
    profile = folder / "profile"
    command = [CHROMIUM, *_QUIET, *_CLOSED, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT
        while not (told := _port_of(profile)):
            assert process.poll() is None and time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.05)
        with connect(f"ws://127.0.0.1:{told[0]}{told[1]}", proxy=None, max_size=None) as whole:
            target = Tab(whole).call("Target.getTargets")["targetInfos"]
            page = next(one["targetId"] for one in target if one["type"] == "page")
            with connect(f"ws://127.0.0.1:{told[0]}/devtools/page/{page}", proxy=None, max_size=None) as socket:
                yield Tab(socket)
    finally:
        process.terminate()
        process.wait()


def _port_of(profile: Path) -> list[str] | None:
    try:
        told = (profile / "DevToolsActivePort").read_text().split("\n")
    except FileNotFoundError:
        return None
    return told if len(told) == 2 else None
