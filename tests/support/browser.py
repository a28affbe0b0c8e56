"""A headless Chromium, steered through its debugging protocol: opens pages, waits, clicks, takes pictures."""

import base64
import io
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZE = 1500, 900
"""Of the window in pixels."""
COLOURS = 255
"""Of a picture."""


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """A browser's tab."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=2**26, proxy=None)
        self._numbers = itertools.count(1)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            reply = json.loads(self._socket.recv(timeout=60))
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return reply["result"]

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str, *, width: int = SIZE[0], height: int = SIZE[1]) -> None:
        """Go to a page, which may be the same with another fragment, in a window of that size."""
        self.call("Page.navigate", url="about:blank")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """Return the text that is shown."""
        return self.run("document.body ? document.body.innerText : ''")

    def wait_for(self, script: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < until, f"{script} is not so: {self.text()[:1500]}"
            time.sleep(0.2)

    def wait_for_text(self, *texts: str, seconds: float = 60) -> None:
        """Wait until all of these are shown."""
        for text in texts:
            shown = "document.body && document.body.innerText"
            self.wait_for(f"{shown}.includes({json.dumps(text)})", seconds)

    def press(self, key: str, code: int) -> None:
        """Press a key, given by its name and its code in Windows."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(
        self,
        file: Path,
        *,
        settle: float = 1.5,
        corner: tuple[int, int] = (0, 0),
        size: tuple[int, int] = SIZE,
    ) -> None:
        """Write what is shown as a PNG of few colours, after a while for animations and late pictures.

        Args:
            file: To write.
            settle: Seconds before.
            corner: Left and upper edge, in pixels.
            size: Width and height, in pixels; by default, from the corner (0, 0), all of the window.
        """
        time.sleep(settle)
        (x, y), (width, height) = corner, size
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        part = {} if corner == (0, 0) else {"clip": clip}
        taken = base64.b64decode(self.call("Page.captureScreenshot", format="png", **part)["data"])
        with Image.open(io.BytesIO(taken)) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


@contextmanager
def open_browser(program: str, *, storage: dict[str, str]) -> Iterator[Page]:
    """Start a browser with an empty profile; `storage` is what pages find in localStorage."""
    with tempfile.TemporaryDirectory(prefix="qdet-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
                f"--window-size={SIZE[0]},{SIZE[1]}", "--hide-scrollbars",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            page = Page(_tab(Path(profile)))
            page.call("Page.enable")
            fill = f"Object.entries({json.dumps(storage)}).forEach(([k, v]) => localStorage.setItem(k, v))"
            page.call("Page.addScriptToEvaluateOnNewDocument", source=f"try {{ {fill} }} catch {{}}")
            yield page
            page.close()
        finally:
            process.kill()
            process.wait()


def _tab(profile: Path) -> str:
    port, until = profile / "DevToolsActivePort", time.monotonic() + 60
    while not port.is_file() or not port.read_text().strip():
        assert time.monotonic() < until, "Chromium does not start"
        time.sleep(0.1)
    address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with opener.open(address, timeout=30) as reply:
            tabs = [tab for tab in json.load(reply) if tab["type"] == "page"]
        if tabs:
            return tabs[0]["webSocketDebuggerUrl"]
        assert time.monotonic() < until, "Chromium opens no page"
        time.sleep(0.1)
