"""What MLflow keeps, as plain data: points, runs, and the data sets that they used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_DATA_DIGEST = 36
"""Characters of a data set's digest that MLflow keeps."""


@dataclass(frozen=True)
class Point:
    """One value of a metric, with its own time (milliseconds since 1970)."""

    name: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True)
class DataInput:
    """A data set that a run used.

    Args:
        name: As people call it.
        digest: Of its content.
        context: What for: `training` or `test`.
        count: Of its images; None where nobody knows.
    """

    name: str
    digest: str
    context: str
    count: int | None

    @property
    def known_as(self) -> tuple[str, str]:
        """Name and digest, as MLflow keeps them."""
        return self.name, self.digest[:_DATA_DIGEST]


@dataclass
class Run:
    """An MLflow run as last seen or written.

    `metrics` holds each one's latest value, `data` names and digests of its data sets.
    """

    id: str
    experiment: str
    name: str
    status: str
    start_ms: int
    end_ms: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    data: set[tuple[str, str]] = field(default_factory=set)


def run_of(found: Any) -> Run:
    """A run as MLflow gives it."""
    return Run(
        id=found.info.run_id,
        experiment=found.info.experiment_id,
        name=found.info.run_name or "",
        status=found.info.status,
        start_ms=found.info.start_time,
        end_ms=found.info.end_time,
        tags=dict(found.data.tags),
        params=dict(found.data.params),
        metrics=dict(found.data.metrics),
        data={(each.dataset.name, each.dataset.digest) for each in getattr(found.inputs, "dataset_inputs", ())},
    )


def data_inputs(inputs: Sequence[DataInput]) -> list[Any]:
    """Data sets as MLflow takes them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                *each.known_as,
                source_type="ablate",
                source=json.dumps({"name": each.name, "digest": each.digest}),
                profile=None if each.count is None else json.dumps({"num_rows": each.count}),
            ),
            [InputTag("mlflow.data.context", each.context)],
        )
        for each in inputs
    ]
