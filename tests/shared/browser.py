"""A headless Chromium over its debugging pipe: pages from disk, scripts, input, pictures.

Debian's package `chromium` is all that it needs: the DevTools protocol is JSON between zero bytes
on two file descriptors, so no driver and no library for websockets.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-sandbox", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
PATIENCE = 30.0
"""Seconds until an answer."""


def _spawn(command: list[str], files: dict[int, str], descriptors: dict[int, int]) -> int:
    """Start a program with files and open descriptors under given numbers; return its id."""
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, number, path, os.O_RDWR, 0) for number, path in files.items()
    ]
    # above all targets first, so that no target overwrites one that is still needed
    high = {to: fcntl.fcntl(number, fcntl.F_DUPFD, 50) for to, number in descriptors.items()}
    actions += [(os.POSIX_SPAWN_DUP2, number, to) for to, number in high.items()]
    actions += [(os.POSIX_SPAWN_CLOSE, number) for number in high.values()]
    try:
        return os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    finally:
        for number in high.values():
            os.close(number)


class Browser:
    """One browser with one page."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        from_us, self._write = os.pipe()
        self._read, to_us = os.pipe()
        self._process = _spawn(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={self._home.name}", "about:blank"],
            {0: os.devnull, 1: os.devnull, 2: os.devnull},
            {3: from_us, 4: to_us},
        )
        os.close(from_us)
        os.close(to_us)
        self._number, self._pending, self._session = 0, b"", None
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)
        self._home.cleanup()

    def open(self, page: Path, *, fragment: str = "") -> None:
        """Load a page from disk, with an empty console and no requests."""
        self._send("Page.navigate", url="about:blank")
        self.console, self.requests = [], []
        self._send("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete'")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(f"!!({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """Return the value of an expression, of a promise the value it resolves to."""
        result = self._send(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        """Set the size of the window in pixels."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def media(self, **features: str) -> None:
        """Emulate media: `type` print or screen, `scheme` dark or light."""
        schemes = [{"name": "prefers-color-scheme", "value": features.get("scheme", "light")}]
        self._send("Emulation.setEmulatedMedia", media=features.get("type", ""), features=schemes)

    def scripts(self, *, allowed: bool) -> None:
        """Switch scripts on or off for the next pages."""
        self._send("Emulation.setScriptExecutionDisabled", value=not allowed)

    def vision(self, kind: str) -> None:
        """Simulate a colour vision: none, deuteranopia, protanopia, tritanopia, achromatopsia."""
        self._send("Emulation.setEmulatedVisionDeficiency", type=kind)

    def mouse(self, kind: str, x: float, y: float, *, pressed: bool = False) -> None:
        """Move, press or release the mouse at a place of the window."""
        self._send(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button="left" if pressed or kind != "Moved" else "none",
            buttons=int(pressed),
            clickCount=int(kind != "Moved"),
        )

    def click(self, x: float, y: float) -> None:
        """Click at a place of the window."""
        self.mouse("Moved", x, y)
        self.mouse("Pressed", x, y, pressed=True)
        self.mouse("Released", x, y)

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one place to another."""
        self.mouse("Moved", *begin)
        self.mouse("Pressed", *begin, pressed=True)
        middle = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
        for place in (middle, end):
            self.mouse("Moved", *place, pressed=True)
        self.mouse("Released", *end)

    def press(self, key: str) -> None:
        """Press a key: ArrowRight, Escape, Enter, Tab."""
        codes = {
            "ArrowLeft": 37,
            "ArrowRight": 39,
            "Escape": 27,
            "Enter": 13,
            "Tab": 9,
            "Home": 36,
            "End": 35,
        }
        for kind in ("keyDown", "keyUp"):
            self._send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}),
            )

    def picture(self, *, whole: bool = False) -> bytes:
        """Return the window, or the whole page, as PNG."""
        shot = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def _send(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0.0))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self._pending += chunk
        text, _, self._pending = self._pending.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        values = event.get("params", {})
        if event["method"] == "Runtime.consoleAPICalled":
            self.console.append(str([one.get("value") for one in values["args"]]))
        elif event["method"] == "Log.entryAdded":
            self.console.append(values["entry"]["text"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.console.append(str(values["exceptionDetails"].get("exception", values)))
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
