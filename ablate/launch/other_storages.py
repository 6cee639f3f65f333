"""`--also BUNDLE|PLACE`: what others have trained is taken over, and the rest trained; their storages are only read.

A training is copied into the launch's own storage, attempt by attempt, before anything is trained: from then on it is
there for every report, and for a launch without the option. Where it came from lies beside it.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ablate.core.errors import StorageError
from ablate.core.redaction import redact
from ablate.core.text import now_ms
from ablate.launch.options import Options
from ablate.planning.plan import PlannedTraining
from ablate.storage import origins, registrations
from ablate.storage.attempts import attempts_of
from ablate.storage.bundles import BundleFiles, bundles_in
from ablate.storage.export import faults, stored_training
from ablate.storage.files import Files
from ablate.storage.layers import LayeredFiles
from ablate.storage.origins import Origin
from ablate.storage.read_only import ReadOnlyFiles
from ablate.storage.status import TrainingView, same_curves
from ablate.storage.storage import Storage


class OtherStorage(ReadOnlyFiles):
    """A storage to go on from, of which only that is seen; as of `Files`, and only read.

    Failures, and what was only begun, are nobody else's business.

    Args:
        files: Of the storage.
        own: The launch's own: what that has is not looked for here.
        kind: `bundle` or `storage`.
        name: What it is called beside rows: no path of anybody's machine.
        digest: Gives that of the bundle, or the storage's id; asked once something is taken.
    """

    def __init__(self, files: Files, own: Storage, kind: str, name: str, digest: Callable[[], str]) -> None:
        self.location = files.location
        self.kind, self.name = kind, name
        self._digest = functools.cache(digest)  # a whole bundle is read for it
        self._files = files
        self._own = own
        self.storage = Storage.of(files)
        self._keys = set(self.storage.keys())
        self.view: Callable[[str], TrainingView] = functools.cache(self.storage.view)
        self.offers: Callable[[str], bool] = functools.cache(self._offers)

    def _offers(self, key: str) -> bool:
        """Whether there is something of a training to go on from, as things stood when this was opened."""
        if key not in self._keys:
            return False
        here, own = self.view(key), self._own.view(key)
        if own.finished:  # without a network, nothing can be measured that is missing
            more = here.finished and not own.has_checkpoint and not here.records.keys() <= own.records.keys()
            # Other bits may have come of the same training elsewhere: its network is not that of the records here.
            return more and same_curves(self.storage.history(key), self._own.history(key))
        return here.finished or (here.has_checkpoint and here.epoch > own.epoch)

    def origin(self, key: str) -> Origin:
        """What is written down of a training that is taken from it: where it took it from itself, if it did."""
        known = origins.read(self._files, key)
        return known or Origin(
            layout=origins.LAYOUT,
            kind=self.kind,
            name=self.name,
            digest=self._digest(),
            taken_ms=now_ms(),
            attempts=attempts_of(self._files, key),
        )

    def read(self, path: str) -> bytes | None:
        """See `Files`; where its trainings came from is told by `origin`."""
        folder, _, name = path.partition("/")
        if folder == origins.FOLDER:
            key = name.removesuffix(".json")
            return self.origin(key).model_dump_json().encode() if self.offers(key) else None
        return self._files.read(path) if self._shown(folder) else None

    def list(self, path: str) -> builtins.list[str]:
        """See `Files`."""
        path = path.strip("/")
        if path in ("", origins.FOLDER):
            suffix = ".json" if path else ""
            return sorted(f"{key}{suffix}" for key in self._keys if self.offers(key))
        return self._files.list(path) if self._shown(path.partition("/")[0]) else []

    def size(self, path: str) -> int | None:
        """See `Files`."""
        return self._files.size(path) if self._shown(path.partition("/")[0]) else None

    def _shown(self, folder: str) -> bool:
        return folder == "registrations" or self.offers(folder)

    def refusal(self, path: str) -> StorageError:
        """See `ReadOnlyFiles`."""
        return StorageError(f"--also {redact(self.location)}: expected it to be only read, got {path} to write")


class OtherStorages:
    """The storages that a launch goes on from beside its own.

    Args:
        asked: As `--also` names them.
        own: The launch's.

    Raises:
        UserError: One of them cannot be read, holds nothing, or is the launch's own.
    """

    def __init__(self, asked: Sequence[str], own: Storage) -> None:
        self._own = own
        found: dict[str, OtherStorage] = {}
        for place in (place for each in asked for place in _opened(each, own)):
            found.setdefault(place.location, place)
        self.places = list(found.values())

    @property
    def storage(self) -> Storage:
        """All of them as one, written to the launch's own."""
        if not self.places:
            return self._own
        return Storage.of(LayeredFiles(self._own.files, *self.places))

    def take(self, training: PlannedTraining) -> str | None:
        """Copy a training into the launch's own storage, where that lacks it and the places have more.

        One place that has all of it is enough; else what several have measured of the same network comes together.

        Returns:
            What was done, in a sentence; None where there was nothing to do, or the plan tells it.

        Raises:
            StorageError: Storage cannot be written, what is to be copied is damaged, or two places have other numbers
                of one measurement.
        """
        if not self.places:
            return None
        key, needed = training.key, set(training.measurements)
        own = self._own.view(key)
        if own.finished and needed <= own.records.keys():
            return None
        offered = sorted(
            (place for place in self.places if place.offers(key)),
            key=lambda place: (not _whole(place.view(key), needed), -place.view(key).epoch),  # else in their order
        )
        if not offered:
            return None
        where = f"{training.rows[0]}, seed {training.spec.seed}"
        chosen = next(filter(None, (self._alike(key, needed, lead, offered) for lead in offered)), None)
        if chosen is None:
            told = f"{offered[0].kind} {offered[0].name} lacks measurements of it, and its network"
            return f"{where}: {told}; it is trained here"
        for place in chosen:
            for told in faults(place.storage, key):  # its checksums may hold: whoever edits numbers makes them anew
                raise StorageError(f"--also {redact(place.location)}: {training.rows[0]}: {told}; verify tells all")
        others = [place for place in offered if place is not chosen[0]]
        for told in LayeredFiles(chosen[0], *others).conflicts(key):  # also those that are not needed
            raise StorageError(f"--also: {where}: expected the same numbers everywhere, got others: {told}; name one")
        union = LayeredFiles(self._own.files, *chosen)
        differs = [f"{where}: {told}; those here count" for told in union.conflicts(key)]
        theirs = {attempt for place in chosen for attempt in attempts_of(place, key)}
        for path, content in stored_training(Storage.of(union), key, checkpoints=True):
            _, _, rest = path.partition("/attempts/")
            if (not rest or rest.partition("/")[0] in theirs) and self._own.files.read(path) != content:
                self._own.files.write(path, content)
        origin = chosen[0].origin(key)
        origins.write_first(self._own.files, key, origin)
        training.origin = origin.words
        if len(chosen) > 1:
            named = " and ".join(f"{place.kind} {place.name}" for place in chosen)
            differs.append(f"{where}: its measurements are from {named}")
        return "\n".join(differs) or None

    def _alike(
        self, key: str, needed: set[str], lead: OtherStorage, offered: Sequence[OtherStorage]
    ) -> list[OtherStorage] | None:
        """A place, and those beside it that have more of the same network; None where that is not enough to go on."""
        if _whole(lead.view(key), needed):
            return [lead]
        everyone = [lead, *(place for place in offered if place is not lead)]
        alike = LayeredFiles(self._own.files, *everyone).places_of(key)
        there, chosen, network = set(self._own.view(key).records), [], False
        for place in (each for each in everyone if each in alike):
            view = place.view(key)
            has_network = view.has_checkpoint and (view.finished or place is lead)
            if place is lead or not view.records.keys() <= there or (has_network and not network):
                chosen.append(place)
                there |= view.records.keys()
                network = network or has_network
        return chosen if network or (lead.view(key).finished and needed <= there) else None

    def take_registrations(self, spaces: Iterable[str]) -> list[str]:
        """Copy what others registered of some spaces before they trained.

        Returns:
            A message for each that is damaged, and left where it is.
        """
        wanted, messages = set(spaces), []
        for place in self.places:
            found, damaged = registrations.read_all(place)
            for each in found:
                if each.space in wanted:
                    registrations.write_first(self._own.files, each)
            messages += [f"{place.kind} {place.name}: {told}" for told in damaged.values()]
        return messages


def opened(options: Options) -> Storage:
    """What a launch plans by: its own storage, and behind it those that it goes on from."""
    own = Storage(options.storage)
    return OtherStorages(options.also, own).storage


def _whole(view: TrainingView, needed: set[str]) -> bool:
    return view.finished and needed <= view.records.keys()


def _opened(asked: str, own: Storage) -> list[OtherStorage]:
    """A bundle or a storage, or the bundles of a folder."""
    storage = Storage(asked)
    if storage.location.rstrip("/") == own.location.rstrip("/"):
        raise StorageError(f"--also: expected another storage than --storage, got {redact(asked)} as both")
    if isinstance(storage.files, BundleFiles):
        return [_bundle(storage.files, own)]
    if not storage.keys():
        found = bundles_in(Path(storage.location))
        if not found:
            expected = "a bundle, a folder of bundles, or a storage with trainings"
            raise StorageError(f"--also {redact(asked)}: expected {expected}, got none there")
        return [_bundle(BundleFiles(path, alone=True), own) for path in found]  # the others are among them
    place = redact(storage.location).partition("?")[0].rstrip("/")
    name = "/".join(place.rsplit("/", 2)[-2:])
    return [OtherStorage(storage.files, own, "storage", name, lambda: next(iter(storage.identities()), ""))]


def _bundle(files: BundleFiles, own: Storage) -> OtherStorage:
    return OtherStorage(files, own, "bundle", files.bundle.path.name, files.bundle.digest)
