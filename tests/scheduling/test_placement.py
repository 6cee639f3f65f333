"""What a training gets of a cluster, and what is said of one that was lost."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.errors import UserError
from ablate.scheduling import placement

Node = dict[str, float]


def share(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], trainings: int = 1, **asked: Any
) -> tuple[tuple[int, float], list[str]]:
    monkeypatch.setattr(placement, "_nodes", lambda: nodes)
    said: list[str] = []
    return placement.share(trainings, asked.get("cpus"), asked.get("gpus"), said.append), said


@pytest.mark.parametrize(
    ("nodes", "trainings", "asked", "expected"),
    [
        ([{"CPU": 16}], 4, {}, (4, 0.0)),
        ([{"CPU": 2}], 19, {}, (1, 0.0)),
        ([{"CPU": 16, "GPU": 2}], 4, {}, (4, 1.0)),
        ([{"CPU": 16, "GPU": 2}], 4, {"gpus": 0.25}, (4, 0.25)),
        ([{"CPU": 16, "GPU": 2}], 4, {"cpus": 1, "gpus": 0}, (1, 0)),
        # An equal share of the cluster is more than any node has, or than any node with a GPU has.
        ([{"CPU": 8}, {"CPU": 8}, {"CPU": 8}], 2, {}, (8, 0.0)),
        ([{"CPU": 64}, {"CPU": 8, "GPU": 1}], 2, {}, (8, 1.0)),
    ],
)
def test_a_training_gets_an_equal_share_that_some_node_has(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], trainings: int, asked: Any, expected: tuple[int, float]
) -> None:
    assert share(monkeypatch, nodes, trainings, **asked) == (expected, [])


@pytest.mark.parametrize("asked", [{"cpus": 17}, {"gpus": 3.0}])
def test_more_than_this_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"expected --cpus-per-trial .* this machine's 16 CPUs and 2 GPUs, got"):
        share(monkeypatch, [{"CPU": 16, "GPU": 2}], **asked)


def test_more_than_a_cluster_has_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    given, said = share(monkeypatch, [{"CPU": 4}], cpus=8, gpus=1.0)
    assert given == (8, 1.0)
    assert "waiting for the cluster" in said[0]


def test_a_cluster_that_is_still_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "NODE_WAIT_S", 0.0)
    nodes: Any = iter([[], [], [{"CPU": 4.0}]])
    monkeypatch.setattr(placement, "_nodes", lambda: next(nodes))
    said: list[str] = []
    assert placement.share(2, None, None, said.append) == (2, 0.0)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "Traceback\n  File x\nray.exceptions.ActorDiedError: The actor died.\n\tpid: 1\nIt was killed",
            "The actor died",
        ),
        ("RuntimeError: import failed\n\nModuleNotFoundError: No module named 'mine'\n\nSorry.", "No module named"),
        ("something", "something"),
        ("", "its process died"),
    ],
)
def test_the_reason_of_a_loss_is_the_line_that_says_it(error: str, reason: str) -> None:
    assert reason in placement._reason(error)
