"""No secret of an address, a setting or a command is shown, and nobody but `core.redaction` hides any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ablate
from ablate.core.redaction import redact, without_login


@pytest.mark.parametrize("scheme", ["http", "s3", "postgresql+psycopg2"])
@pytest.mark.parametrize("login", ["me:hunter2", "me:hun@ter2", "me:a/hunter2", ":hunter2", "hunter2"])
def test_no_login_is_left(scheme: str, login: str) -> None:
    shown = redact(f"the address {scheme}://{login}@place:5000/path, and more")
    assert "hun" not in shown and "ter2" not in shown
    assert f"{scheme}://***@place:5000/path, and more" in shown
    assert without_login(f"{scheme}://{login}@place:5000/path") == f"{scheme}://place:5000/path"


def test_secrets_are_hidden_in_one_place() -> None:
    package = Path(ablate.__file__).parent
    hiding = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\*\*\*|\bre\.sub\([^\n]*@", path.read_text(encoding="utf-8"))
    }
    assert hiding == {"core/redaction.py"}
