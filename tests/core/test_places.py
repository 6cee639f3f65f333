"""Places: `~` is home wherever a path is given, and half an address is refused and no folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablate.core.errors import SpecError, TrackingError, UserError
from ablate.core.places import local_path
from ablate.execution.addresses import check_storage
from ablate.launch import __main__ as launch
from ablate.learning.data import describe
from ablate.report import __main__ as report
from ablate.spaces.loading import load_space
from ablate.spaces.specs import DataSpec
from ablate.storage.files import LocalFiles
from ablate.storage.storage import open_files
from ablate.tracking.address import resolve
from tests.support.helpers import write_space


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_home_is_meant_by_a_tilde_in_every_path(home: Path) -> None:
    write_space(home)
    assert open_files("~/storage").location == str(home / "storage")
    assert open_files("file://~/storage").location == str(home / "storage")
    assert local_path("~", "--out") == home
    assert resolve("sqlite:///~/mlflow.db") == f"sqlite:///{home / 'mlflow.db'}"
    assert load_space("~/tiny.yaml").name == "tiny"
    with pytest.raises(UserError, match=str(home / "images")):
        describe(DataSpec(name="imagefolder", root="~/images"), Path("data"))


def test_the_commands_write_into_home_and_make_no_folder_of_that_name(home: Path) -> None:
    write_space(home, epochs=1)
    given = "--space ~/tiny.yaml --row small --local --cpus-per-trial 1 --storage ~/storage --data-root ~/data"
    launched = CliRunner().invoke(launch.app, [*given.split(), "--tracking-uri", "sqlite:///~/mlflow.db"])
    assert launched.exit_code == 0, launched.output
    assert (home / "storage").is_dir()
    assert (home / "mlflow.db").is_file()
    told = CliRunner().invoke(
        report.app, ["--space", "tiny", "--tracking-uri", "sqlite:///~/mlflow.db", "--out", "~/report"]
    )
    assert told.exit_code == 0, told.output
    assert (home / "report" / "index.html").is_file()
    assert [path.name for path in Path.cwd().iterdir()] == []


HALVES = ["s3:/bucket", "s3:bucket", "s3//bucket", "S3:/bucket/x", "gs:/bucket", "hdfs:/x", "file:/x", "nas:/share"]


@pytest.mark.parametrize("half", HALVES)
def test_half_an_address_is_refused_and_no_folder_is_made(home: Path, half: str) -> None:
    for use in (open_files, lambda text: check_storage(text, True), lambda text: local_path(text, "--storage")):
        with pytest.raises(SpecError, match=r"--storage: expected .*, got .*; did you mean '\w+://"):
            use(half)
    write_space(home)
    arguments = ["--space", "~/tiny.yaml", "--local", "--storage", half]
    done = CliRunner().invoke(launch.app, arguments)
    assert done.exit_code == 2
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("given", ["s3://bucket", "http://host/x"])
def test_an_address_is_no_path(given: str) -> None:
    with pytest.raises(SpecError, match="expected a path of this machine, got the address"):
        local_path(given, "--out")


@pytest.mark.parametrize("given", ["a:b", "./s3:/x", "C:/x", "s3", "x/s3:/y"])
def test_a_folder_with_a_colon_is_a_folder(home: Path, given: str) -> None:
    files = open_files(given)
    assert isinstance(files, LocalFiles)
    assert files.root == Path.cwd() / given


@pytest.mark.parametrize("given", ["./~", "./~nobody-here", "x/~", "./s3:x"])
def test_a_folder_called_like_a_home_or_an_address_is_asked_for_with_a_dot(home: Path, given: str) -> None:
    assert local_path(given, "--out") == Path(given)
    files = open_files(given)
    assert isinstance(files, LocalFiles)
    assert files.root == Path.cwd() / given


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:/m.db", "sqlite:///m.db"),
        ("sqlite:m.db", "sqlite:///m.db"),
        ("http:/host:5000", "http://host:5000"),
        ("https//host", "https://host"),
        ("postgresql:/host/db", "postgresql://host/db"),
        ("postgresql+psycopg2:/host/db", "postgresql+psycopg2://host/db"),
    ],
)
def test_half_an_address_of_a_store_is_refused_with_what_is_meant(given: str, meant: str) -> None:
    with pytest.raises(TrackingError) as caught:
        resolve(given)
    assert str(caught.value).endswith(f"got {given!r}; did you mean {meant!r}?")


@pytest.mark.parametrize("given", ["postgresql://", "mysql:///", "http://", "http:///x", "s3:/bucket"])
def test_an_address_without_a_place_is_refused(given: str) -> None:
    with pytest.raises(TrackingError):
        resolve(given)


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"--storage: expected a path, got '~no such user/x', the home folder of nobody"
    ):
        open_files("~no such user/x")
    with pytest.raises(SpecError, match="--tracking-uri"):
        resolve("sqlite:///~nobody-here/m.db")
