"""The page as a document: self-contained, escaped, sound for screen readers, legible in light and dark."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ablate.report.page as module
from ablate.report.figures.pictures import Picture
from ablate.report.page import Link, Missing, PageData, SpacePage, render
from ablate.report.results import Outcome, Results, published_results
from ablate.report.tables import Cell, Line, Row, TableInput, build_table
from ablate.report.verdicts.verdicts import judge
from ablate.spaces.claims import Above, Claim, Value
from ablate.spaces.looks import Design

EVIL = "<script>alert('&\"')</script>"
PNG = b"\x89PNG not really"
VOID = {"meta", "link", "img", "br", "hr"}


class Document(HTMLParser):
    """Elements in order, with attributes and text; refuses wrongly nested ones."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def results() -> Results:
    values = {"natural": 76.5, "pgd20": 43.25, "spectrum/central_energy_share": 0.7}
    outcomes = {
        (row, seed): Outcome(f"{row}{seed}", {name: value + 20 * n + seed for name, value in values.items()})
        for n, row in enumerate(("first", "second"))
        for seed in (0, 1)
    }
    return Results(outcomes, {("third", 0): "failed: loss became nan in epoch 3"})


def space(name: str = "batch_size", **changes: object) -> SpacePage:
    published = {"first": {"natural": 75.02, "pgd20": 42.89}, "second": {"natural": 76.38}}
    table = build_table(
        TableInput(
            "Batch size", ["first", "second", "third"], results(), published, {"first": "a note"}, (0, 1), True,
            "CIFAR-10", ["spectrum/central_energy_share"],
        )
    )  # fmt: skip
    claims = [
        Claim(says="second is better", above=Above(row="second", rows=("first",), metrics=("natural", "pgd20"))),
        Claim(says="mainly low", value=Value(row="first", at_least=0.5, metrics=("spectrum/central_energy_share",))),
    ]
    theirs = published_results(published)
    page = SpacePage(
        name=name,
        title="Batch size of training",
        description="One sentence",
        table=table,
        facts=[("Plan", "abc, preset paper")],
        runs={
            ("first", "ours"): [
                Link("seed 0", "http://host:5000/#/experiments/1/runs/aa", "aa"),
                Link("seed 1", None, "b" * 32),
            ]
        },
        verdicts=[(judge(claim, results(), design=Design(looks=(2,))), judge(claim, theirs)) for claim in claims],
        verdict_note="About CIFAR-10.",
        figures=[Picture("2", "Spectra", "What to see.", PNG, b"<svg/>"), Missing("3: Kernels", "not measured yet.")],
        problems=["third, seed 0: failed: loss became nan in epoch 3"],
    )
    return dataclasses.replace(page, **changes)  # type: ignore[arg-type]


def page(*spaces: SpacePage) -> PageData:
    return PageData("Report", "2026-01-01", [("Commit", "c0ffee"), ("Seeds", "0, 1")], spaces or (space(),))


def document(*spaces: SpacePage) -> Document:
    return Document(render(page(*spaces)))


def test_everything_asked_for_is_on_it() -> None:
    text = document().text
    for words in (
        "c0ffee", "Batch size of training", "One sentence.", "75.02", "77.00 ± 0.71", "+1.98", "a note", "CIFAR-10",
        "third, seed 0: failed: loss became nan in epoch 3", "second is better", "About CIFAR-10.", "What to see.",
        "3: Kernels: not measured yet.", "Central energy share", "1.200 ± 0.707", "ours: failed", "holds", "By t test",
    ):  # fmt: skip
        assert words in text, words


def test_published_reproduced_and_difference_stand_below_each_other() -> None:
    sources = re.findall(r'class="source">([^<]*)<', render(page()))
    assert sources[:3] == ["published", "ours, n\xa0=\xa02", "difference"]


def test_nothing_is_loaded_from_outside_and_nothing_runs() -> None:
    found = document()
    assert not found.all("script", "iframe", "object", "embed", "form")
    for attributes in (attributes for _, attributes in found.elements):
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
    assert all(link["href"].startswith("data:") for link in found.all("link"))
    text = render(page())
    assert "@import" not in text and "url(" not in text


def test_every_text_is_escaped() -> None:
    evil = [
        document(space(title=EVIL, description=EVIL, problems=[EVIL], verdict_note=EVIL, facts=[(EVIL, EVIL)])),
        document(space(figures=[Picture(EVIL, EVIL, EVIL, PNG, b""), Missing(EVIL, EVIL)])),
        document(space(runs={("first", "ours"): [Link(EVIL, f"http://{EVIL}", EVIL)]})),
        Document(render(PageData(EVIL, EVIL, [(EVIL, EVIL)], []))),
    ]
    labels = Results({(EVIL, 0): Outcome("x", {"natural": 1.0, EVIL: 2.0})}, {("b", 0): EVIL})
    table = build_table(TableInput(EVIL, [EVIL, "b"], labels, notes={"b": EVIL}, data=EVIL))
    claim = Claim(says=EVIL, note=EVIL, value=Value(row=EVIL, at_least=0.5, metrics=("natural", EVIL)))
    verdict = judge(claim, labels)
    evil.append(document(space(table=table, verdicts=[(verdict, verdict)])))
    for found in evil:
        assert not found.all("script")
        assert "<script>alert" in found.text


def test_headings_follow_each_other_without_a_gap() -> None:
    levels = [int(tag[1]) for tag, _ in document(space("a"), space("b")).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_have_captions_and_headers_with_a_scope() -> None:
    found = document()
    tables, captions = found.all("table"), found.all("caption")
    assert len(tables) == len(captions) == 2
    assert {header["scope"] for header in found.all("th")} == {"col", "row", "rowgroup"}


def test_pictures_have_an_alternative_and_a_caption() -> None:
    found = document()
    assert len(found.all("figure")) == len(found.all("figcaption")) == len(found.all("img")) == 1
    assert found.all("img")[0]["alt"] == "Spectra; described in the caption"


def test_ids_are_unique_and_every_reference_has_its_target() -> None:
    found = document(space("run"), space("content"), space("b"))  # names that the page could use itself
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes["aria-labelledby"] for _, attributes in found.elements if "aria-labelledby" in attributes}
    wanted |= {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")}
    assert wanted <= set(ids)


def test_the_keyboard_reaches_everything() -> None:
    found = document()
    assert found.all("a")[0]["href"] == "#content" and found.all("a")[0]["class"] == "skip"
    assert found.all("main")[0]["id"] == "content"
    assert found.all("html")[0]["lang"] == "en"
    # What scrolls can be scrolled by keys, and says what it is.
    scrolling = [a for _, a in found.elements if a.get("class") in ("scroll", "picture")]
    assert scrolling and all(a["tabindex"] == "0" and ("aria-labelledby" in a or "aria-label" in a) for a in scrolling)


def test_runs_are_linked_where_there_is_a_server_and_named_where_not() -> None:
    found = document()
    assert "http://host:5000/#/experiments/1/runs/aa" in [link["href"] for link in found.all("a")]
    assert "seed 1 bbbbbbbb" in found.text


def test_verdicts_are_words_not_colours_alone() -> None:
    text = render(page())
    assert re.search(r'class="verdict holds">.*holds</span>', text)
    assert re.search(r'class="verdict not-enough-evidence">.*not enough evidence</span>', text)


def test_several_comparisons_of_one_claim_are_listed() -> None:
    assert "2 comparisons, ours" in document().text


@pytest.mark.parametrize(
    "written, read",
    [
        ("-2.49 (95 % interval -8.61 to +3.63, n = 1)", "−2.49 (95\xa0% interval −8.61 to +3.63, n\xa0=\xa01)"),
        ("within 1 of 3 ± 0.2", "within 1 of 3 ±\xa00.2"),
        ("2026-11-28, PGD-20, data.root=a-1", "2026-11-28, PGD-20, data.root=a-1"),
    ],
)
def test_numbers_have_minus_signs_and_stay_on_their_line(written: str, read: str) -> None:
    text = render(page(space(description=written, verdict_note=written)))
    assert text.count(read) == 2 and (read == written or written not in text)


STYLE = (Path(module.__file__).parent / "page.css").read_text()


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """WCAG 2.2, level AA: a ratio of 4.5 for text, of 3 for what marks the focus."""
    roots = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)]
    light, dark, printed = roots
    colours = {"light": light, "dark": light | dark, "print": light | printed}[scheme]
    pairs = [("text", "page"), ("quiet", "page"), ("link", "page"), ("text", "fails-soft")]
    pairs += [(name, f"{name}-soft") for name in ("holds", "fails", "open")]
    for front, back in pairs:
        bright, dim = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (front, back)
    bright, dim = sorted((luminance(colours["focus"]), luminance(colours["page"])), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 3


def test_light_dark_paper_and_phones_have_their_styles() -> None:
    for part in ("prefers-color-scheme: dark", "@media print", "max-width: 40rem", ":focus-visible"):
        assert part in STYLE
    assert document().all("meta")[1]["content"].startswith("width=device-width")


def test_a_masked_number_and_the_second_verdict_stand_on_the_page() -> None:
    plain = space()
    cells = {"pgd20": Cell(43.25, masked=True), "natural": Cell(76.5)}
    rows = (Row("first", (Line("ours", cells, 3),), ("masked, Square is below: PGD-20 by 9.0 points",)),)
    table = dataclasses.replace(
        plain.table, columns=("natural", "pgd20", "aa"), rows=rows, headers={"aa": "AA, reduced"}
    )
    claim = Claim(says="second is better", above=Above(row="second", rows=("first",), metrics=("worst",)))
    second = {0: judge(claim, results())}
    text = Document(render(page(dataclasses.replace(plain, table=table, second=second)))).text
    assert "43.25†" in text and "76.50†" not in text and "AA, reduced" in text
    assert "Square is below" in text and text.count("Ours, on the worst of all attacks: not enough evidence") == 1
    assert "Ours, on the worst" not in Document(render(page(plain))).text
