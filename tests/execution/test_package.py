"""What travels with a submitted job: code and the user's own files, and nothing else."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ablate import spaces
from ablate.core.errors import UserError
from ablate.core.user_code import import_modules
from ablate.execution import package
from ablate.launch.request import Request
from ablate.launch.session import launch
from ablate.spaces import presets
from tests.support.helpers import launch_here, options_of, write_space
from tests.support.job_server import Server, submission_of, submit


def test_only_code_and_the_users_own_files_travel(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mlflow.db", ".env", "storage/x.json", "data/x.json", ".git/config", "mine_extra.py", "secrets.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hunter2")
    (tmp_path / "mine_helper.py").write_text("VALUE = 1\n")
    (tmp_path / "mine.py").write_text("import mine_helper\n")
    (tmp_path / "mine_package" / "storage").mkdir(parents=True)
    (tmp_path / "mine_package" / "__init__.py").write_text("")
    (tmp_path / "mine_package" / "inner.py").write_text("")
    (tmp_path / "mine_package" / "storage" / "x.json").write_text("hunter2")
    space = write_space(tmp_path)
    submit(submission_of(space=[str(space)], imports=["mine", "mine_package.inner", "json"]))
    assert server.submitted[0]["entrypoint"].startswith("python -m ablate.launch --space spaces/tiny.yaml")
    code = {name for name in server.carried if name.startswith(("ablate/", "search_spaces/"))}
    assert {"ablate/launch/__main__.py", "ablate/learning/models/resnet.py", "search_spaces/presets/smoke.yaml"} <= code
    assert set(server.carried) - code == {
        "mine.py",
        "mine_helper.py",
        "mine_package/__init__.py",
        "mine_package/inner.py",
        "spaces/tiny.yaml",
    }
    serve = Path(package.__file__).parents[1] / "serve"
    served = [*serve.glob("templates/*.html"), *serve.glob("files/*")]
    assert len(served) > 3
    assert {name for name in code if not name.endswith(".py")} == {
        "ablate/py.typed",
        *(f"ablate/report/{name}" for name in ("page.html", "page.css", "space.html", "macros.html")),
        *(f"ablate/serve/{file.relative_to(serve)}" for file in served),
        *("search_spaces/schema.json", "search_spaces/presets/schema.json"),
        *(f"search_spaces/presets/{name}.yaml" for name in spaces.preset_names()),
        *(f"search_spaces/{name}.yaml" for name in spaces.space_names()),
    }
    assert not [name for name in server.carried if "__pycache__" in name or name.endswith((".pyc", ".db"))]


def test_what_lies_beside_the_code_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets beside the code, links out of it, environments, and folders that the user's packages call data."""
    code = Path(package.__file__).parents[2]
    shutil.copytree(code / "ablate", tmp_path / "ablate", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(code / "search_spaces", tmp_path / "search_spaces")
    secret = tmp_path / "outside" / "secret.py"
    secret.parent.mkdir()
    secret.write_text("hunter2")
    (tmp_path / "ablate" / "credentials.json").write_text("hunter2")
    (tmp_path / "ablate" / "report" / "token.yaml").write_text("hunter2")
    (tmp_path / "search_spaces" / "credentials.json").write_text("hunter2")
    (tmp_path / "search_spaces" / "secrets.yaml").write_text("password: hunter2")
    (tmp_path / "search_spaces" / "presets" / "secrets.yaml").write_text("password: hunter2")
    (tmp_path / "search_spaces" / "shadow.yaml").symlink_to(secret)
    (tmp_path / "ablate" / "shadow.py").symlink_to(secret)
    (tmp_path / "ablate" / "folder").symlink_to(secret.parent)
    monkeypatch.setattr(package, "__file__", str(tmp_path / "ablate" / "execution" / "package.py"))
    monkeypatch.setattr(presets, "folder", lambda: tmp_path / "search_spaces")
    parcel = package.gather([], [])
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "ablate").rglob("*.py") if not path.is_symlink()}
    assert {name for name in parcel.files if name.endswith(".py")} == there
    assert not [name for name, path in parcel.files.items() if "hunter2" in path.read_text()]
    told = "\n".join(parcel.left_out)
    for name in ("shadow.py", "ablate/folder", "search_spaces/shadow.yaml", "secrets.yaml", "presets/secrets.yaml"):
        assert name in told


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of the user's own, imported."""
    folder = tmp_path / "project"
    for name in ("own_code/__init__.py", "own_code/data/loader.py", "own_code/.venv/lib/x.py", "own_code/env/y.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "own_code" / "env" / "pyvenv.cfg").write_text("")
    (folder / "own_code" / "weights.json").write_text("{}")
    (tmp_path / "secret.py").write_text("hunter2")
    (folder / "own_code" / "inner.py").symlink_to(folder / "own_code" / "data" / "loader.py")
    (folder / "own_code" / "outer.py").symlink_to(tmp_path / "secret.py")
    (folder / "own_code" / "gone.py").symlink_to(tmp_path / "nothing.py")
    (folder / "notes").mkdir()
    for name in ("a.txt", ".gitignore"):
        (folder / "notes" / name).write_text("*")
    (folder / "notes" / "out.txt").symlink_to(tmp_path / "secret.py")
    monkeypatch.chdir(folder)
    import_modules(["own_code"])
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_code"]:
        del sys.modules[name]


def test_of_the_users_packages_python_travels_and_what_is_asked_for(mine: Path) -> None:
    parcel = package.gather([], ["own_code"])
    sent = {name for name in parcel.files if not name.startswith(("ablate/", "search_spaces/"))}
    assert sent == {"own_code/__init__.py", "own_code/data/loader.py", "own_code/inner.py"}
    assert {"own_code/outer.py", "own_code/gone.py"} <= {reason.partition(":")[0] for reason in parcel.left_out}
    more = package.gather([], ["own_code"], ["own_code/weights.json", str(mine / "notes")])
    assert set(more.files) - set(parcel.files) == {"own_code/weights.json", "notes/a.txt"}
    assert {"notes/out.txt", "notes/.gitignore"} <= {reason.partition(":")[0] for reason in more.left_out}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("nothing.json", "expected a file or folder, got none"),
        ("../secret.py", "or beside a module of --import, got"),
        ("/etc/passwd", "or beside a module of --import, got /etc/passwd"),
        (".", "got the whole of it"),
        ("notes/out.txt", "got a link to"),
    ],
)
def test_what_cannot_be_included_is_refused(mine: Path, asked: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^--include {re.escape(asked)}: .*{re.escape(words)}"):
        package.gather([], ["own_code"], [asked])


def test_more_than_ray_takes_is_refused(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMIT_BYTES", 2**20)
    with (mine / "large.bin").open("wb") as file:
        file.truncate(2 * 2**20)
    with pytest.raises(UserError, match=r"expected at most 1 MiB of files to send, got \d; the largest is large.bin"):
        package.gather([], [], ["large.bin"])


def test_the_package_data_sent_are_those_of_the_package() -> None:
    with (Path(package.__file__).parents[2] / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    assert {name: {*files} - {"README.md"} for name, files in listed.items()} == {
        name: {*files} for name, files in package.PACKAGE_DATA.items()
    }


def test_a_dry_run_lists_what_would_travel(mine: Path) -> None:
    space = write_space(mine)
    given = options_of(
        mine, cluster="http://head:8265", storage_is_shared=True, local=False, imports=["own_code"], dry_run=True
    )
    code, text = launch_here(given)
    assert (code, "distinct trainings" in text) == (0, True)
    lines = text.splitlines()
    for name in ("own_code/data/loader.py", f"spaces/{space.name}", "ablate/launch/__main__.py"):
        assert f"  {name}" in lines
    assert "weights.json" not in text
    assert "does not travel: own_code/outer.py: a link out of its folder" in text
    out = io.StringIO()
    assert launch(Request.read(replace(given, as_json=True)), Console(file=io.StringIO()), out) == 0
    told = json.loads(out.getvalue())
    assert [name for name in told["travels"] if f"  {name}" not in lines] == []
    assert len(told["trials"]) == 3
    with pytest.raises(UserError, match=r"data\.root"):
        launch_here(replace(given, sets=["data.name=imagefolder", "data.root=pictures"]))
    _, text = launch_here(replace(given, sets=["data.name=imagefolder", "data.root=/no/such/pictures"]))
    assert "The plan cannot be seen from here" in text and "  ablate/launch/__main__.py" in text


def test_weights_below_the_working_folder_travel_and_absolute_ones_are_the_clusters(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "w.pt").write_bytes(b"weights")
    space = write_space(tmp_path, name="of_others", **{"label: large, set: {}": "label: a, set: {model.weights: W}"})
    text = space.read_text()
    space.write_text(text.replace("W}", "nets/none.pt}"))
    with pytest.raises(UserError, match=r"of_others\.yaml:7: model\.weights: expected a file here, which travels"):
        submit(submission_of(space=[str(space)]))
    assert not server.submitted
    space.write_text(text.replace("W}", "nets/w.pt}"))
    submit(submission_of(space=[str(space)]))
    assert "nets/w.pt" in server.carried
    space.write_text(text.replace("W}", "/weights/w.pt}"))
    _, output = submit(submission_of(space=[str(space)], plan_id="9876543210"))
    assert "model.weights /weights/w.pt: an absolute path, which is read on the cluster" in output
    assert "nets/w.pt" not in server.carried
