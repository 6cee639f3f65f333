"""Headless Chromium over its own protocol: two pipes and JSON, so that no driver has to be installed.

Events end every wait; the time limits only end a test that would hang.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S = 120.0

# Chromium reads from descriptor 3 and writes to 4; whatever lies there in this process must make room first.
_TRAMPOLINE = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_WAIT = """
new Promise(resolve => {
  const look = () => {
    let found = null;
    try { found = (%s); } catch (error) { found = null; }
    if (found) { watcher.disconnect(); resolve(typeof found === 'object' ? true : found); }
  };
  const watcher = new MutationObserver(look);
  watcher.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
  look();
})
"""

_STILL = """
new Promise(resolve => {
  let before = null;
  const look = () => {
    const element = (%s);
    if (element) {
      if (before === null) element.scrollIntoView({block: 'center', inline: 'center'});
      const box = element.getBoundingClientRect();
      const place = [box.x + box.width / 2, box.y + box.height / 2];
      const there = document.elementFromPoint(...place);
      if (before && before[0] === place[0] && before[1] === place[1] && there &&
          (element.contains(there) || there.contains(element))) return resolve(place);
      before = place;
    }
    requestAnimationFrame(look);
  };
  look();
})
"""


def executable() -> str | None:
    """The browser on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab.

    Attributes:
        errors: Everything a user would see as an error in the console, since the last `open`.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = 0
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == number:
                if "error" in reply:
                    raise RuntimeError(f"{method}: {reply['error']['message']}")
                result: dict[str, Any] = reply["result"]
                return result

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.errors.clear()
        before = self._loaded
        going = self.call("Page.navigate", url=url)
        assert "errorText" not in going, f"{url}: {going}"
        # Another place on the same page loads nothing.
        while "loaderId" in going and self._loaded == before:
            self._next()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, f"{expression}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression is true, looking again whenever the document changes."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            try:
                return self.evaluate(_WAIT % expression)
            except RuntimeError as error:  # the page went elsewhere meanwhile: wait there
                if not any(word in str(error) for word in ("context", "navigated", "collected")):
                    raise
        raise AssertionError(f"{expression} did not become true within {LIMIT_S} s")

    def click(self, element: str) -> None:
        """Press the mouse on an element, given as an expression, once it lies still with nothing above it."""
        self.wait_for(element)
        x, y = self.evaluate(_STILL % element)
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)

    def press(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        """The size of the window in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """What is to be seen, as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], LIMIT_S)
            assert ready, f"expected an answer of the browser within {LIMIT_S} s, got none"
            read = os.read(self._read, 1 << 20)
            assert read, "the browser ended"
            self._buffer += read
        first, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(each.get("value")) for each in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


@contextlib.contextmanager
def browse(profile: Path) -> Iterator[Browser]:
    """A browser of its own, ended afterwards.

    Args:
        profile: An empty folder for what it keeps.
    """
    program = executable()
    assert program is not None
    child_reads, we_write = os.pipe()
    we_read, child_writes = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--mute-audio"]
    command = [sys.executable, "-c", _TRAMPOLINE, str(child_reads), str(child_writes), program, *flags]
    command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1280,900", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(child_reads, child_writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(child_reads)
    os.close(child_writes)
    try:
        browser = Browser(we_write, we_read)
        yield browser
        browser._session = None
        browser.call("Browser.close")
        process.wait(LIMIT_S)
    finally:
        os.close(we_write)
        os.close(we_read)
        if process.poll() is None:
            process.kill()
            process.wait()
