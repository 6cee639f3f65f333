"""Writes the report page and its figures as files, and keeps them in MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.core.errors import SpecError
from ablate.core.redaction import without_login
from ablate.report.contents import draw_all, page_of
from ablate.report.figures.pictures import Picture
from ablate.report.page import render
from ablate.report.results import Results
from ablate.report.search import best_space, search_of

if TYPE_CHECKING:
    from ablate.tracking.tracker import Tracker

PAGE = "index.html"


def page_files(
    plans: Sequence[Results],
    server: str | None = None,
    left_aside: Sequence[str] = (),
) -> dict[str, bytes]:
    """The page and its figures.

    Args:
        plans: One of each space, in the order of the page.
        server: Address of the MLflow server, if there is one.
        left_aside: What cannot be shown at all, from `Tracker.left_aside`.

    Returns:
        Path -> content: `index.html`, `<space>/figure-<name>.png` and `.svg`, and of a search `<space>_best.yaml`; the
        page needs none of the others.
    """
    figures = {plan.space.name: draw_all(plan) for plan in plans}
    files = {PAGE: render(page_of(plans, figures, server=server, left_aside=left_aside)).encode()}
    for space, drawn in figures.items():
        for name, picture in drawn.items():
            if isinstance(picture, Picture):
                stem = f"{space}/figure-{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"
                files |= {f"{stem}.png": picture.png, f"{stem}.svg": picture.svg}
    for plan in plans:
        best = best_space(search_of(plan)) if plan.space.search is not None else None
        if best is not None:
            files[f"{plan.space.name}_best.yaml"] = best.encode()
    return files


def write_page(
    tracker: Tracker | None,
    plans: Sequence[Results],
    folder: Path,
    left_aside: Sequence[str] = (),
) -> list[Path]:
    """Writes the page and its figures, and logs them to MLflow as artifacts of a `report` run.

    Args:
        tracker: Where the plans were read from; none: not from MLflow, and nothing is logged.
        plans: One of each space, in the order of the page.
        folder: Made where it is missing; files in it are replaced.
        left_aside: What cannot be shown at all, from `Tracker.left_aside`.

    Returns:
        The files, the page first.

    Raises:
        SpecError: The folder cannot be written.
        TrackingError: The store does not take the report; the files are written all the same.
    """
    server = without_login(tracker.uri) if tracker is not None and tracker.remote else None
    files = page_files(plans, server, left_aside)
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise SpecError(f"--out: expected a folder that can be written, got {folder}: {error.strerror}") from error
    spaces = ", ".join(plan.space.name for plan in plans)
    tags = {"ablate.spaces": spaces, "ablate.plans": ", ".join(plan.planned.id for plan in plans)}
    if tracker is not None:
        tracker.log_report(spaces if len(plans) == 1 else f"{len(plans)} spaces", files, tags)
    return [folder / name for name in files]
