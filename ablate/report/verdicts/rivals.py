"""Who is right: the claims of several papers that answer one question, side by side.

Claims with the same `question` are rivals. Each keeps its own verdict; a source is right where all of its answers hold,
and wrong where one of them fails. What is claimed of a masked column counts by its verdict on the worst of all attacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.report.results import Results
from ablate.report.verdicts.masking import second_verdicts
from ablate.report.verdicts.verdicts import FAILS, HOLDS, UNDECIDED, Decision, Verdict, verdicts_of


@dataclass(frozen=True)
class Answer:
    """What one claim says to a question.

    Attributes:
        claim: Its number among those of the space.
        source: Whose it is.
        says: Its words.
        ours: The verdict of our table.
        published: That of the published table; None where it has none.
        on_worst: Whether ours is the one on the worst of all attacks, since a column is masked.
    """

    claim: int
    source: str
    says: str
    ours: Decision
    published: Decision | None
    on_worst: bool = False


@dataclass(frozen=True)
class Rivalry:
    """A question with its answers, in the order of the claims."""

    question: str
    answers: tuple[Answer, ...]

    @property
    def sentence(self) -> str:
        """Who is right, as far as our table tells."""
        verdicts = {source: self._verdict(source) for source in dict.fromkeys(each.source for each in self.answers)}
        right, wrong, open_ = (
            [source for source, verdict in verdicts.items() if verdict == kind] for kind in (HOLDS, FAILS, UNDECIDED)
        )
        if not open_ and not right:
            return "Nobody is right: every answer fails."
        if not open_ and not wrong:
            return "All of them hold, so that they do not contradict each other here."
        if not open_:
            return f"{_listed(right)} {'is' if len(right) == 1 else 'are'} right, and not {_listed(wrong, 'or')}."
        told = [f"{_listed(found)} {word}" for found, word in ((right, "so far right"), (wrong, "wrong")) if found]
        return f"Not decided yet{': ' if told else ''}{', '.join(told)}; not enough evidence for {_listed(open_)}."

    def lines(self) -> list[str]:
        """The answers, one line each."""
        told = []
        for each in self.answers:
            worst = " on the worst of all attacks" if each.on_worst else ""
            published = f", published {each.published}" if each.published is not None else ""
            told.append(f"{each.source}: “{each.says}”: ours {each.ours}{worst}{published}")
        return told

    def _verdict(self, source: str) -> Decision:
        own = [each.ours for each in self.answers if each.source == source]
        return FAILS if FAILS in own else UNDECIDED if UNDECIDED in own else HOLDS


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def rivalries(verdicts: Sequence[tuple[Verdict, Verdict | None]], second: Mapping[int, Verdict]) -> list[Rivalry]:
    """The questions that several claims of a space answer.

    Args:
        verdicts: (ours, published), by claim.
        second: Number of a claim on a masked column -> its verdict on `worst`.

    Returns:
        In the order of their first answers.
    """
    found: dict[str, list[Answer]] = {}
    for number, (ours, published) in enumerate(verdicts):
        question, counts = ours.claim.question, second.get(number, ours)
        if question is not None:
            answer = Answer(
                number,
                ours.claim.source or "no source",
                ours.claim.says,
                counts.verdict,
                published.verdict if published is not None else None,
                number in second,
            )
            found.setdefault(question, []).append(answer)
    return [Rivalry(question, tuple(answers)) for question, answers in found.items()]


def as_json(results: Iterable[Results]) -> list[dict[str, Any]]:
    """Who is right in several tables, as plain data."""
    return [
        {
            "space": each.planned.spaces[0].name,
            "question": rivalry.question,
            "answers": [dataclasses.asdict(answer) for answer in rivalry.answers],
            "who_is_right": rivalry.sentence,
        }
        for each in results
        if any(claim.question is not None for claim in each.claims)
        for rivalry in rivalries(verdicts_of(each), second_verdicts(each))
    ]
