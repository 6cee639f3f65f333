"""A page's numbers are those of its bundles; the project's own page is written from those beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ablate.bundle.page import numbers_in
from ablate.bundle.statement import results_in
from ablate.report.formats import to_markdown
from ablate.report.tables import build_table, table_input
from ablate.storage import plans
from ablate.storage.bundles import BundleFiles
from ablate.storage.storage import Storage
from tests.bundle.support import run

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
BUNDLES = sorted((DOCS / "results").glob("*.zip"))


def written(folder: Path, text: str, bundle: Path, *more: str) -> tuple[int, str, str]:
    """Exit code, output, and the page."""
    template, out = folder / "prose.md", folder / "page.md"
    template.write_text(text)
    given = ("--out", out, "--bundles", bundle.parent, "--figures", folder / "figures")
    code, told = run("page", template, *given, *more)
    return code, told, out.read_text() if out.is_file() else ""


@pytest.fixture
def results(bundle: Path):  # type: ignore[no-untyped-def]
    storage = Storage(str(bundle))
    [found] = results_in(plans.load(storage), storage)
    return found


def test_every_kind_of_number_is_that_of_the_records(bundle: Path, tmp_path: Path, results) -> None:  # type: ignore[no-untyped-def]
    values = results.values("small", "pgd20")
    mean = sum(values) / 2
    ratio = [outcome.curves["energy/ratio"] for outcome in results.of("small")]
    large = results.values("large", "pgd20")
    text = (
        "{tiny/small/pgd20} {tiny/small/pgd20:.1f} {tiny/small/pgd20.std} {tiny/small/pgd20.n} "
        "{tiny/small/pgd20.published} {tiny/small/pgd20.seed1} {tiny/small/pgd20 - tiny/large/pgd20:+.1f} "
        "{tiny/small/energy/ratio@0} {tiny/small/energy/ratio:.0%} {{a}} {seeds tiny} {data tiny} {verdict tiny/1}\n"
    )
    code, told, page = written(tmp_path, text, bundle)
    assert code == 0, told
    spread = abs(values[0] - values[1]) / 2**0.5
    assert page.split(" ") == [
        *(f"{mean:.2f} {mean:.1f} {spread:.2f} 2 40.25 {values[1]:.2f}".split()),
        f"{mean - sum(large) / 2:+.1f}",
        f"{(ratio[0][0] + ratio[1][0]) / 2:.2f}",
        f"{(ratio[0][-1] + ratio[1][-1]) / 2:.0%}",
        *["{a}", "0,", "1", "digits", "not", "enough", "evidence\n"],
    ]


@pytest.mark.slow
def test_tables_verdicts_and_figures_stand_on_lines_of_their_own(bundle: Path, tmp_path: Path, results) -> None:  # type: ignore[no-untyped-def]
    text = "{from bund*.zip}\n{table tiny}\n\n{verdicts tiny}\n\n{figure tiny/5}\n"
    code, _, page = written(tmp_path, text, bundle)
    assert code == 0
    assert page.startswith(to_markdown(build_table(table_input(results))).strip())
    assert re.search(r"“Larger steps are worse” .*\*\*not enough evidence\*\*", page)
    picture = tmp_path / "figures" / "figure-5.png"
    assert "(figures/figure-5.png)" in page and Image.open(picture).format == "PNG"
    before = picture.read_bytes(), page
    code, told, page = written(tmp_path, text, bundle)
    assert (code, told) == (0, "") and (picture.read_bytes(), page) == before
    assert written(tmp_path, text, bundle, "--check")[0] == 0
    # A picture of the same numbers by another version of what draws it is none that differs.
    assert numbers_in(picture.read_bytes())["0.0"]["shape"]
    (tmp_path / "page.md").write_text(page.replace("not enough", "enough"))
    code, told, _ = written(tmp_path, text, bundle, "--check")
    assert code == 1 and "page.md:" in told and "its bundles give" in told
    (tmp_path / "page.md").write_text(page)
    with Image.open(picture) as image:
        image.save(picture)
    code, told, _ = written(tmp_path, text, bundle, "--check")
    assert code == 1 and "expected a figure that says what it shows" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{tinny/small/pgd20}", "expected a space launched into"),
        ("{tiny/smal/pgd20}", "expected a row of tiny, got 'smal'; did you mean 'small'?"),
        ("{tiny/small/pgd02}", "expected a number of small, got 'pgd02'; did you mean 'pgd20'?"),
        ("{tiny/small/pgd20.seed9}", "expected a finished seed of small, got 9; finished: 0, 1"),
        ("{tiny/small/fgsm.published}", "expected a published number of small"),
        ("{tiny/small/energy/ratio@99}", "expected a curve of small at an epoch that it has"),
        ("{tiny/small/pgd20[best]}", "expected a number of small"),
        ("{tiny}", "expected space/row/column or a command"),
        ("{verdict tiny/7}", "expected the number of a claim of tiny, 1 to 1, got '7'"),
        ("{figure tiny/2}", "expected a figure of tiny, got '2'"),
        ("{tiny/small/pgd20:..f}", "expected a format"),
        ("{", "expected braces in pairs"),
        ("a }", "expected braces in pairs"),
        ("{from none-*.zip}", "expected bundles none-*.zip"),
        ("{from ../*.zip}", "expected bundles ../*.zip"),
        ("a {from *.zip}", "on a line of its own"),
    ],
)
def test_a_name_that_nothing_is_found_under_is_refused_with_its_line(
    bundle: Path, tmp_path: Path, text: str, told: str
) -> None:
    code, output, page = written(tmp_path, f"\n\n{text}\n", bundle, "--check")  # which draws no pictures
    assert code == 2 and page == "" and "prose.md:3: " in output and told in output


def test_a_page_without_prose_is_refused(bundle: Path, tmp_path: Path) -> None:
    given = ("--out", tmp_path / "page.md", "--bundles", bundle.parent, "--figures", tmp_path)
    code, output = run("page", tmp_path / "none.md", *given)
    assert code == 2 and "expected a text with the page's prose" in output


@pytest.mark.slow
def test_the_projects_page_is_what_its_bundles_give() -> None:
    given = ("--out", DOCS / "results.md", "--bundles", DOCS / "results", "--figures", DOCS / "figures")
    code, told = run("page", DOCS / "results.in.md", *given, "--check")
    assert code == 0, f"{told}: make results writes it"


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_a_bundle_of_the_project_is_small_and_whole(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    opened = BundleFiles(path).bundle
    assert all(opened.read(name) is not None for name in opened.names())


def test_no_training_lies_in_a_bundle_of_the_project_that_has_nothing_of_its_own_of_it() -> None:
    """Who trained it again, to measure more, has those measurements; of one storage each training lies in one."""
    held = [
        {key: set(storage.view(key).records) for key in storage.keys()}  # noqa: SIM118
        for storage in (Storage.of(BundleFiles(path, alone=True)) for path in BUNDLES)
    ]
    for number, bundle in enumerate(held):
        for key, records in bundle.items():
            others = [other.get(key, set()) for place, other in enumerate(held) if place != number]
            assert records.difference(*others), key
