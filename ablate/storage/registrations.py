"""What was written down before anything was trained: claims, rows, looks, and who knew what by then.

    <storage>/registrations/<digest>.json

The digest is that of the content; the first writer keeps time and commit. Nothing deletes them, `--prune` neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from ablate.core.digest import digest
from ablate.spaces.claims import Claim
from ablate.spaces.specs import Spec
from ablate.storage.checksums import SEAL, read_json, seal, unseal
from ablate.storage.files import Files

LAYOUT = 1
SHORT_DIGEST = 12
"""Characters of a digest that are printed in a paper."""


class Registration(Spec):
    """One file.

    `content` is what the digest covers; `known` names, by the claim's number, the rows that had been measured by then,
    and `exploratory` the claims of which a comparison could be computed. Numbers are those of `claims_in`.
    """

    layout: int
    digest: str
    space: str
    registered_ms: int
    commit: str = ""
    content: dict[str, Any]
    known: dict[str, list[str]] = {}
    exploratory: list[int] = []
    changed: list[str] = []


class ClaimStanding(Spec):
    """Whether a claim was registered before its results were in."""

    registered: bool
    digest: str
    registered_ms: int
    why: str = ""
    """Why it is exploratory; of a registered one, which single rows were known."""


class RegistrationPart(Spec):
    """What a plan keeps of the registration of one of its spaces."""

    digest: str = Field(pattern="^[0-9a-f]{1,64}$")
    registered_ms: int
    commit: str = ""
    claims: list[ClaimStanding]
    second: dict[str, ClaimStanding] = {}
    """Of second claims, by the number of the first; none in plans of earlier versions."""
    content: dict[str, Any]
    problems: list[str] = []
    """Registrations that are damaged or were edited."""


def claim_content(claim: Claim) -> dict[str, Any]:
    """What of a claim is registered: whose it is, and to which question, decides nothing."""
    return claim.model_dump(mode="json", exclude_none=True, exclude={"source", "question"})


def claims_in(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every claim that a registration covers: those of the space, then the second ones on masked columns.

    Args:
        content: Of a registration; `second` has them by the number of the first, and is left out where there are none.
    """
    return [*content["claims"], *(claim for _, claim in _seconds(content))]


def second_places(content: Mapping[str, Any]) -> dict[str, int]:
    """Number of a claim -> where its second one is in `claims_in`."""
    return {number: len(content["claims"]) + place for place, (number, _) in enumerate(_seconds(content))}


def _seconds(content: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(content.get("second", {}).items(), key=lambda item: int(item[0]))


def path_of(name: str) -> str:
    """Where a registration is."""
    return f"registrations/{name}.json"


def parse(content: bytes | None, name: str) -> Registration:
    """A registration's file.

    Args:
        content: Of the file.
        name: Its digest, by the file's name.

    Raises:
        ValueError: It is damaged, or was edited.
    """
    if SEAL not in read_json(content):
        raise ValueError("it has no checksum")
    try:
        found = Registration.model_validate_json(json.dumps(unseal(content)))
    except ValidationError as error:
        raise ValueError(f"it is no registration: {error.errors()[0]['msg']}") from error
    if found.layout != LAYOUT:
        raise ValueError(f"expected registration layout {LAYOUT}, got {found.layout}")
    if not found.digest == name == digest(found.content):
        raise ValueError("its content is not what its digest says")
    return found


def read_all(files: Files) -> tuple[list[Registration], dict[str, str]]:
    """Every registration of a storage.

    Returns:
        (whole ones, the earliest first; digest -> what is wrong with the others).
    """
    found, damaged = [], {}
    for name in files.list("registrations"):
        if not name.endswith(".json"):
            continue
        short = name.removesuffix(".json")
        try:
            found.append(parse(files.read(path_of(short)), short))
        except (ValueError, TypeError) as error:
            damaged[short] = _damaged(short, error)
    return sorted(found, key=lambda each: (each.registered_ms, each.digest)), damaged


def checked(part: RegistrationPart, files: Files) -> RegistrationPart:
    """What a plan keeps of its registrations, as their files are now.

    A launch writes down how each claim stands; a file that was damaged or edited since then proves nothing any more.
    One that is not there changes nothing: a plan may have travelled without it.

    Args:
        part: As the launch wrote it down.
        files: Of the storage that the plan is in.
    """
    damaged = {}
    for name in sorted({part.digest, *(claim.digest for claim in [*part.claims, *part.second.values()])}):
        content = files.read(path_of(name))
        try:
            _ = content is None or parse(content, name)
        except (ValueError, TypeError) as error:
            damaged[name] = _damaged(name, error)

    def now(claim: ClaimStanding) -> ClaimStanding:
        if not claim.registered or claim.digest not in damaged:
            return claim
        return claim.model_copy(update={"registered": False, "why": damaged[claim.digest]})

    if not damaged:
        return part
    return part.model_copy(
        update={
            "claims": [now(claim) for claim in part.claims],
            "second": {number: now(claim) for number, claim in part.second.items()},
            "problems": list(dict.fromkeys([*part.problems, *damaged.values()])),
        }
    )


def _damaged(name: str, error: Exception) -> str:
    return f"{path_of(name)} is damaged or was edited: {error}"


def write_first(files: Files, made: Registration) -> None:
    """Write a registration where there is none of its digest yet; the first writer's stands.

    Raises:
        StorageError: Storage cannot be written.
    """
    files.create(path_of(made.digest), json.dumps(seal(made.model_dump()), indent=1, ensure_ascii=False).encode())
