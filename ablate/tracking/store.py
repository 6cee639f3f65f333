"""The seam to MLflow: runs, metrics and artifacts as plain data; it and `database` alone import mlflow.

Everything MLflow can raise comes out as a `TrackingError` without secrets; `ServerAway` where trying again may help.
"""

from __future__ import annotations

import contextlib
import gc
import getpass
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.core.errors import TrackingError
from ablate.core.redaction import redact
from ablate.core.text import named_line
from ablate.tracking import database
from ablate.tracking.address import artifact_address, artifact_folder, file_of, patience, quieten, resolve
from ablate.tracking.entities import DataInput as DataInput
from ablate.tracking.entities import Point as Point
from ablate.tracking.entities import Run as Run
from ablate.tracking.entities import data_inputs, run_of

ARTIFACTS = "mlartifacts"
"""The folder beside a database file where artifacts go."""

BATCH = 1000
"""Metrics a call; MLflow's limit, which parameters and tags count towards."""

_PAGE = 1000
_PARAMETERS, _TAGS = 100, 100
VALUE, _TAG_VALUE = 6000, 5000
_DATA_TRIES = 3


class ServerAway(TrackingError):  # noqa: N818  (a state of the server rather than a mistake)
    """The store did not answer; it may do so later."""


class Store:
    """One MLflow tracking store.

    Args:
        uri: As of `resolve`.

    Raises:
        TrackingError: The URI cannot be used.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = resolve(uri)
        self.shown = redact(self.uri)
        self.file = Path(file_of(self.uri)) if self.uri.startswith("sqlite") else None
        self.remote = self.uri.startswith("http")
        self._made: Any = None
        self._experiments: dict[str, str] = {}
        self._folders: dict[str, Path] = {}  # run -> its artifacts, where they are files of this machine

    def prepare(self, create: bool = True) -> None:
        """Create or migrate the store and prove that it answers, before anything else uses it.

        Args:
            create: Whether to create a database file that is missing; a reader does not.

        Raises:
            TrackingError: It does not answer (known within 15 s), or cannot be created or used.
        """
        quieten()
        if self.file is not None and self.file.exists():
            database.check(self.file, ARTIFACTS)
        elif self.file is not None and create:
            database.create(self.file, ARTIFACTS)
        elif self.file is not None:
            raise TrackingError(
                f"--tracking-uri: expected runs at {self.shown}, got no such file; launch something first, name the "
                "store with --tracking-uri or MLFLOW_TRACKING_URI, or read a storage with ablate.report --storage"
            )
        with patience() if self.remote else contextlib.nullcontext():
            try:
                self._talk(lambda: self.client.search_experiments(max_results=1))
            except ServerAway as error:
                if not self.remote:
                    raise
                raise ServerAway(
                    f"--tracking-uri: expected an MLflow server at {self.shown}, got no answer: {error}"
                ) from error

    def experiment(self, name: str, create: bool = False) -> str | None:
        """The id of an experiment.

        Args:
            name: Its name.
            create: Whether to create it; one that was deleted in the UI is restored.
        """
        if name not in self._experiments:
            found = self._talk(lambda: self.client.get_experiment_by_name(name))
            if found is None and create:
                place = artifact_address(self.file.parent / ARTIFACTS / name) if self.file is not None else None
                try:
                    identifier = self._talk(lambda: self.client.create_experiment(name, artifact_location=place))
                except ServerAway:
                    raise
                except TrackingError:  # another launch created it just now
                    found = self._talk(lambda: self.client.get_experiment_by_name(name))
                    if found is None:
                        raise
                    identifier = found.experiment_id
            elif found is None:
                return None
            else:
                identifier = found.experiment_id
                if create and found.lifecycle_stage == "deleted":
                    self._talk(lambda: self.client.restore_experiment(identifier))
            self._experiments[name] = str(identifier)
        return self._experiments[name]

    def experiments(self) -> list[str]:
        """Names of all experiments."""
        return sorted(self._active())

    def _active(self) -> dict[str, str]:
        found = self._pages(lambda token: self.client.search_experiments(page_token=token))
        return {each.name: str(each.experiment_id) for each in found}

    def experiment_tags(self, experiment: str) -> dict[str, str]:
        """The tags of an experiment.

        Returns:
            Name -> value.
        """
        return dict(self._talk(lambda: self.client.get_experiment(experiment)).tags)

    def describe(self, experiment: str, tags: Mapping[str, str], *, first: Mapping[str, str] | None = None) -> None:
        """Set tags of an experiment, where they differ.

        Args:
            experiment: Its id.
            tags: Name -> value.
            first: Those that stay as they are where there is one already: somebody may have changed it.
        """
        there = self.experiment_tags(experiment)
        wanted = {**{name: value for name, value in (first or {}).items() if not there.get(name)}, **tags}
        for name, value in wanted.items():
            if there.get(name) != value:
                self._talk(lambda name=name, value=value: self.client.set_experiment_tag(experiment, name, value))

    def runs(self, experiment: str, tags: Mapping[str, str] | None = None) -> list[Run]:
        """All runs of an experiment that carry some tags.

        Args:
            experiment: Its id.
            tags: Tag -> value.

        Returns:
            Read a thousand at a time.
        """
        if any("'" in value for value in (tags or {}).values()):  # it would end the filter's text early
            return []
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in (tags or {}).items())
        with _uncollected():
            found = self._pages(
                lambda token: self.client.search_runs(
                    [experiment], filter_string=wanted, max_results=_PAGE, page_token=token
                )
            )
        for run in found:
            folder = artifact_folder(run.info.artifact_uri) if self.file is not None else None
            if folder is not None:
                self._folders[run.info.run_id] = folder
        return [run_of(run) for run in found]

    def run(self, run_id: str) -> Run | None:
        """One run by its id; None where there is none, or where it was deleted."""
        try:
            found = self._talk(lambda: self.client.get_run(run_id))
        except ServerAway:
            raise
        except TrackingError:
            return None
        return run_of(found) if found.info.lifecycle_stage == "active" else None

    def linked(self, tag: str, run_id: str) -> list[Run]:
        """Runs of all experiments whose tag names a run.

        Args:
            tag: The tag.
            run_id: The run that it names.

        Returns:
            Those that were not deleted.
        """
        return [run for runs in self.tagged(tag, run_id).values() for run in runs]

    def tagged(self, tag: str, value: str) -> dict[str, list[Run]]:
        """Runs of all experiments with a tag of some value.

        Args:
            tag: The tag.
            value: What it says.

        Returns:
            Name of an experiment -> its runs that were not deleted; experiments without such runs are left out.
        """
        if not re.fullmatch(r"\w+", value):  # an edited tag: it could end the filter's text early
            return {}
        active = {identifier: name for name, identifier in self._active().items()}
        experiments, wanted = list(active), f"tags.`{tag}` = '{value}'"
        found = self._pages(
            lambda token: self.client.search_runs(experiments, wanted, max_results=_PAGE, page_token=token)
        )
        by_name: dict[str, list[Run]] = {}
        for run in map(run_of, found):
            by_name.setdefault(active[run.experiment], []).append(run)
        return by_name

    def create(self, experiment: str, name: str, tags: Mapping[str, str], start_ms: int) -> Run:
        """A new run; its tags are there with it or not at all.

        Args:
            experiment: Its id.
            name: The run's name.
            tags: What identifies it.
            start_ms: When it began.
        """
        given = {"mlflow.user": _user(), "mlflow.source.name": "ablate", **_short(tags)}
        made = self._talk(
            lambda: self.client.create_run(experiment, start_time=start_ms, tags=given, run_name=name[:250])
        )
        return Run(made.info.run_id, experiment, name, "RUNNING", start_ms, tags=dict(given))

    def log(
        self,
        run: Run,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send what a run lacks: parameters it has not, tags that differ, and points.

        Args:
            run: Brought up to date.
            points: Metrics; an exact repeat is dropped by the store.
            params: Parameters; one that is there already stays as it is.
            tags: Sent with the last batch, so that a marker never precedes what it marks.
        """
        from mlflow.entities import Metric, Param, RunTag

        new_params = {name: value[:VALUE] for name, value in (params or {}).items() if name not in run.params}
        new_tags = {name: value for name, value in _short(tags or {}).items() if run.tags.get(name) != value}
        metrics = [Metric(point.name, point.value, point.timestamp_ms, point.step) for point in points]
        batches = batched(
            params=([Param(*pair) for pair in new_params.items()], _PARAMETERS),
            metrics=(metrics, BATCH - _PARAMETERS - _TAGS),
            tags=([RunTag(*pair) for pair in new_tags.items()], _TAGS),
        )
        for batch in batches:
            self._talk(lambda batch=batch: self.client.log_batch(run.id, **batch))
        run.params |= new_params
        run.tags |= new_tags
        run.metrics |= {point.name: point.value for point in points}

    def log_data(self, run: Run, inputs: Sequence[DataInput]) -> None:
        """Tell which data sets a run used, where it does not say so yet.

        Args:
            run: Brought up to date.
            inputs: The data sets.
        """
        lacking = [each for each in inputs if each.known_as not in run.data]
        if not lacking:
            return
        inputs_of_mlflow = data_inputs(lacking)
        for left in reversed(range(_DATA_TRIES)):
            try:
                self._talk(lambda: self.client.log_inputs(run.id, inputs_of_mlflow))
                break
            except ServerAway:
                raise
            except TrackingError:  # another run told of the same data just now, and MLflow wrote it down twice
                if not left:
                    raise
        run.data |= {each.known_as for each in lacking}

    def untag(self, run: Run, name: str) -> None:
        """Remove a tag, if the run has it."""
        if name in run.tags:
            self._talk(lambda: self.client.delete_tag(run.id, name))
            del run.tags[name]

    def set_status(self, run: Run, status: str, end_ms: int | None = None) -> None:
        """Set a run's status, if it has another one.

        Args:
            run: Brought up to date.
            status: RUNNING, FINISHED, FAILED or KILLED.
            end_ms: When it ended; none: it has not.
        """
        if run.status == status:
            return
        if end_ms is None:
            self._talk(lambda: self.client.update_run(run.id, status=status))
        else:
            self._talk(lambda: self.client.set_terminated(run.id, status=status, end_time=end_ms))
        run.status, run.end_ms = status, end_ms

    def delete(self, run: Run) -> None:
        """Mark a run as deleted; MLflow keeps it until `mlflow gc`."""
        self._talk(lambda: self.client.delete_run(run.id))

    def delete_if_there(self, run_id: str) -> None:
        """Mark a run as deleted, if it is there and was not."""
        if self.run(run_id) is not None:
            self._talk(lambda: self.client.delete_run(run_id))

    def upload(self, run: Run, path: str, content: bytes) -> None:
        """Write or replace an artifact.

        Args:
            run: Whose.
            path: Its path among the run's artifacts.
            content: Its bytes.
        """
        folder, _, name = path.rpartition("/")
        there = self._folders[run.id] / path if run.id in self._folders else None
        if there is not None and there.is_symlink():  # what it names is nobody's to write
            there.unlink()
        elif there is not None and there.is_dir():
            shutil.rmtree(there)
        with tempfile.TemporaryDirectory(prefix="ablate-") as scratch:
            local = Path(scratch) / name
            local.write_bytes(content)
            self._talk(lambda: self.client.log_artifact(run.id, str(local), folder or None))

    def download(self, run_id: str, path: str) -> bytes | None:
        """An artifact's bytes.

        Args:
            run_id: Whose.
            path: Its path among the run's artifacts.
        """
        if run_id in self._folders:  # MLflow asks its database six times a file: a minute for thousands of runs
            try:
                file = self._folders[run_id] / path
                return file.read_bytes() if file.is_file() else None  # a pipe in its place would block for ever
            except OSError:
                return None
        with tempfile.TemporaryDirectory(prefix="ablate-") as scratch:
            try:
                found = self._talk(lambda: self.client.download_artifacts(run_id, path, scratch))
                return Path(found).read_bytes()
            except ServerAway:
                raise
            except (TrackingError, OSError):
                return None

    def history(self, run_id: str, metric: str) -> list[Point]:
        """Every point of a metric, in the order of its steps."""
        points = self._talk(lambda: self.client.get_metric_history(run_id, metric))
        return sorted(
            (Point(point.key, point.value, point.timestamp, point.step) for point in points),
            key=lambda point: (point.step, point.timestamp_ms),
        )

    def flush(self) -> None:
        """See `database.flush`; nothing to do for a server."""
        if self.file is not None:
            database.flush(self.file)

    @property
    def client(self) -> Any:
        """MLflow's own."""
        if self._made is None:
            from mlflow.tracking import MlflowClient

            self._made = MlflowClient(tracking_uri=self.uri)
        return self._made

    def _pages(self, search: Any) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._talk(lambda token=token: search(token))
            found += page
            token = page.token
            if not token:
                return found

    def _talk(self, call: Any) -> Any:
        try:
            return call()
        except TrackingError:
            raise
        except Exception as error:
            kind = ServerAway if _away(error) else TrackingError
            expected = f"expected MLflow at {self.shown} to take the call"
            if "UNAUTHENTICATED" in str(error) or "401" in str(error)[:200]:
                expected = f"expected {self.shown} to accept MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise kind(f"{expected}, got {redact(named_line(error))}") from error


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which takes two thirds of the time of reading thousands of runs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def batched(**parts: tuple[Sequence[Any], int]) -> list[dict[str, Sequence[Any]]]:
    """As few calls as there can be, the last of which carries the last tags; of each part so many items at most."""
    cut = {name: [items[at : at + most] for at in range(0, len(items), most)] for name, (items, most) in parts.items()}
    count = max(map(len, cut.values()))
    batches: list[dict[str, Sequence[Any]]] = [{} for _ in range(count)]
    for name, chunks in cut.items():
        first = count - len(chunks) if name == "tags" else 0
        for index, chunk in enumerate(chunks):
            batches[first + index][name] = chunk
    return batches


def _away(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, (ConnectionError, TimeoutError)) or any(
        sign in text
        for sign in (
            "API request to",
            "Max retries exceeded",
            "Connection refused",
            "Connection aborted",
            "timed out",
            "TEMPORARILY_UNAVAILABLE",
            "error code 502",
            "error code 503",
            "error code 504",
            "database is locked",
            "could not connect",
            "server closed the connection",
        )
    )


def _short(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: redact(str(value))[:_TAG_VALUE] for name, value in tags.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
