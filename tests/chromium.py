"""A headless Chromium for tests of pages: its DevTools protocol over a pipe, nothing to install.

Messages are JSON texts that end in a zero byte; the browser reads them from file descriptor 3 and
writes to 4 (https://chromedevtools.github.io/devtools-protocol).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_KEYS = {"Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


class Chromium:
    """One page of a browser, to be used in a ``with`` block.

    - problems: exceptions, errors on the console and refused requests of the page so far

    Inputs:
    - profile: an empty folder for the browser's files
    - patience: seconds to wait for any one answer; then TimeoutError
    """

    def __init__(self, profile: Path, patience: float = 30):
        self.patience, self.problems = patience, []
        self._numbers, self._buffer, self._events = itertools.count(1), b"", []
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        options = [
            PROGRAM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
        ]
        options += [f"--user-data-dir={profile}", "--hide-scrollbars", "--disable-dev-shm-usage"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", *options, "about:blank"],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reads)
        os.close(writes)
        self._session = None
        [page] = [t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)  # no window, no focus

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(
        self, page: Path | str, width: int = 1000, height: int = 800, dark: bool = False
    ) -> None:
        """Loads a file or an address in a window of that size, in the light or the dark scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._events.clear()
        self._call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read()

    def run(self, expression: str):
        """The value of a JavaScript expression in the page."""
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in done:
            raise AssertionError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Returns as soon as an expression is true; it is tried ten times a second."""
        deadline = time.monotonic() + self.patience
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {self.patience} s: {expression}")
            time.sleep(0.1)

    def choose(self, selector: str, file: Path) -> None:
        """Puts a file into an input element for files."""
        found = f"document.querySelector({json.dumps(selector)})"
        element = self._call("Runtime.evaluate", expression=found)["result"]["objectId"]
        self._call("DOM.setFileInputFiles", files=[str(file)], objectId=element)

    def press(self, key: str) -> None:
        """A key, as a person presses it."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **code)
        self._call("Input.dispatchKeyEvent", type="keyUp", **code)

    def point(self, selector: str) -> None:
        """Moves the mouse over an element."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(selector))

    def tap(self, selector: str) -> None:
        """Touches an element with a finger."""
        self._call("Emulation.setTouchEmulationEnabled", enabled=True)
        self._call(
            "Input.dispatchTouchEvent", type="touchStart", touchPoints=[self._middle(selector)]
        )
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG file."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _middle(self, selector: str) -> dict:
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y, w, h = self.run(f"(b => [b.x, b.y, b.width, b.height])({box})")
        return {"x": x + w / 2, "y": y + h / 2}

    def _call(self, method: str, **parameters) -> dict:
        message = {"id": next(self._numbers), "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == message["id"]:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _read(self) -> dict:
        """The next message; of events, the problems among them are kept."""
        deadline = time.monotonic() + self.patience
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the browser has said nothing for {self.patience} s")
            read = os.read(self._from, 1 << 16)
            if not read:
                raise ConnectionError("the browser has ended")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self._events.append(message)
            entry = message["params"].get("entry", {}).get("level")
            kind = message["params"].get("type")
            if (
                message["method"] == "Runtime.exceptionThrown"
                or (message["method"] == "Log.entryAdded" and entry == "error")
                or (message["method"] == "Runtime.consoleAPICalled" and kind == "error")
            ):
                self.problems.append(message["params"])
        return message
