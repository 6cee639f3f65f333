"""In a real browser with a real launch beside it: opened before anything is there, and never loaded again by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.serve.__main__ import listen
from ablate.serve.server import LiveServer, link_of
from ablate.storage.storage import Storage
from tests.support.browser import Browser, browse, executable
from tests.support.helpers import start_launch, write_space

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="needs Chromium, e.g. apt-get install chromium"),
]

TOKEN = "s3cret-token"
CLAIM = """
claims:
  - {says: "<b>small</b> is better", above: {row: small, rows: [large], metrics: [natural]}}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browse(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    space = write_space(folder, epochs=4, attacks="natural")
    space.write_text(space.read_text() + CLAIM)
    return folder


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["here", "token"])
def address(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server of the folder's storage; also as one that others may reach is asked."""
    listening = listen("127.0.0.1", 0)
    server = LiveServer(Storage(str(folder / "storage")), "127.0.0.1", request.param, look_s=0.2)
    running = threading.Thread(target=server.run, args=(listening,))
    running.start()
    yield link_of("127.0.0.1", listening.getsockname()[1], request.param)
    server.end()
    running.join()


def test_a_launch_is_followed_from_nothing_to_its_verdicts(browser: Browser, address: str, folder: Path) -> None:
    browser.open(address)
    assert "token" not in browser.evaluate("location.href")
    launch = None
    if not (folder / "storage").exists():
        browser.wait_for("document.body.innerText.includes('first launch is shown by itself')")
        arguments = ["--space", "./tiny.yaml", "--row", "small", "--row", "large", "--local", "--no-tracking"]
        launch = start_launch(folder, *arguments, "--cpus-per-trial", "1")
        browser.wait_for("document.querySelector('#in-training tr')")
        browser.wait_for("document.querySelector('#lines-train-loss polyline')")
        browser.wait_for("document.querySelector('#in-finished tr')")  # by itself, row by row
    browser.wait_for("document.querySelectorAll('#in-finished tr').length === 2")
    browser.wait_for("document.querySelector('#report tr.ours strong')")
    browser.wait_for("document.querySelector('#report figure img')")
    shown = browser.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 300)))")
    assert shown and all(shown)
    text = browser.evaluate("document.body.innerText")
    assert "2 of 2 trials finished" in text and "Live." in text and "<b>small</b> is better" in text
    assert browser.evaluate("document.querySelectorAll('#lines-train-loss polyline').length") == 2
    assert browser.errors == []  # the security policy would tell of what it kept out
    for width in (320, 400, 1280):
        browser.resize(width, 800, phone=width < 600)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert launch is None or launch.wait(240) == 0
