"""Whom the live page answers: own names, GET and HEAD, the token elsewhere; and nothing but what it links to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ablate.serve.server import LiveServer
from ablate.storage import plans
from ablate.storage.storage import Storage
from tests.support.asgi import ask
from tests.support.tracking_world import T0, plan_of, train

TOKEN = "s3cret-token"
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A plan whose words, reasons and logs are HTML, beside a file that is none of its own."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "secret.txt").write_text("not for readers")
    storage = Storage(str(folder / "storage"))
    plan = plan_of((EVIL, '"><img src=x>'), (0,), claims=[])
    [space] = plan.spaces
    plan = plan.model_copy(update={"spaces": [space.model_copy(update={"title": EVIL, "description": EVIL})]})
    for trial in plan.trials:
        attempt = train(storage, trial.training, 1)
        attempt.save_log(f"{EVIL} in a log", last=True)
        attempt.save_failure(f"{EVIL} failed (my_net.py:7)", f"{EVIL} in a traceback", T0)
    plans.save(plan, storage)
    return storage


@pytest.fixture(scope="module")
def here(storage: Storage) -> Iterator[LiveServer]:
    server = LiveServer(storage, "127.0.0.1", None, look_s=0.05, figures=False)
    yield server
    server.shelf.close()


@pytest.fixture(scope="module")
def away(storage: Storage) -> Iterator[LiveServer]:
    server = LiveServer(storage, "0.0.0.0", TOKEN, look_s=0.05, figures=False)
    yield server
    server.shelf.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8421", "LOCALHOST:1", "[::1]:8421"])
def test_names_of_this_machine_are_answered_whatever_port_a_tunnel_has(here: LiveServer, host: str) -> None:
    assert ask(here.app, "/", headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "10.0.0.1", "@"]
)
def test_other_names_are_refused_as_a_site_would_give_that_points_its_own_at_us(here: LiveServer, host: str) -> None:
    for path in ("/", "/events/aaaaaaaaaa", "/files/live.js"):
        refused = ask(here.app, path, headers={"host": host})
        assert refused.status == 421 and "EVIL" not in refused.text and "expected" in refused.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_is_only_read(here: LiveServer, method: str) -> None:
    refused = ask(here.app, "/", method=method, headers={"origin": "http://evil.example"})
    assert refused.status == 405 and refused.headers["allow"] == "GET, HEAD"
    for path in ("/", "/events/aaaaaaaaaa", "/files/live.js"):
        assert ask(here.app, path, method="HEAD").status == 200  # and it ends


@pytest.mark.parametrize("path", ["/", "/nothing", "/files/live.js", "/events/none"])
def test_every_answer_forbids_what_is_not_its_own_and_no_other_site_may_read_it(here: LiveServer, path: str) -> None:
    answer = ask(here.app, path, headers={"origin": "http://evil.example"}, until=b"event: ")
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [
        "/files/../seen.py", "/files/..%2f..%2fcore%2ferrors.py", "/files//etc/passwd", "/figures/../../secret.txt",
        "/plan/../../secret.txt", "/plan/..", "/events/../plans/aaaaaaaaaa", "/events/%2e%2e", "/plans/aaaaaaaaaa.json",
        "/files/page.css/", "/figures/a.png", "/plan/aaaaaaaaa", "//evil.example/", "/\\evil.example",
    ],
)  # fmt: skip
def test_no_address_becomes_a_path(here: LiveServer, path: str) -> None:
    answer = ask(here.app, path)
    assert answer.status == 404 and "secret" not in answer.text and "root:" not in answer.text


def test_elsewhere_only_the_printed_link_is_let_in_and_its_token_leaves_the_address(away: LiveServer) -> None:
    for target in ("/", "/?token=", "/?token=wrong", f"/?token={TOKEN}x", "/events/aaaaaaaaaa", "/files/live.js"):
        refused = ask(away.app, target, headers={"host": "192.0.2.7:8421", "cookie": "ablate-token-8421=wrong"})
        assert refused.status == 403 and TOKEN not in refused.text
    let_in = ask(away.app, f"/plan/aaaaaaaaaa?token={TOKEN}&a=b", headers={"host": "192.0.2.7:8421"})
    assert (let_in.status, let_in.headers["location"]) == (303, "/plan/aaaaaaaaaa?a=b")
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite" in cookie
    shown = ask(away.app, "/", headers={"host": "192.0.2.7:8421", "cookie": cookie.partition(";")[0]})
    assert shown.status == 200 and TOKEN not in shown.text
    assert ask(away.app, f"//evil.example/?token={TOKEN}").headers["location"].startswith("/evil.example")
    # An address cannot be pointed here by somebody's name server, but a name can.
    assert ask(away.app, f"/?token={TOKEN}", headers={"host": "evil.example"}).status == 421


def test_whatever_was_written_into_storage_is_shown_as_text(here: LiveServer) -> None:
    page = ask(here.app, "/plan/aaaaaaaaaa")
    told = ask(here.app, "/events/aaaaaaaaaa", until=b"section-batch_size")
    assert page.headers["cache-control"] == "no-store"
    for text in (page.text, told.text):
        assert "<script>alert" not in text and "<img src=x" not in text
    for words in ("failed (my_net.py:7)", "in a traceback", "in a log", "&lt;script&gt;"):
        assert words in told.text
    assert told.headers["content-type"].startswith("text/event-stream")
