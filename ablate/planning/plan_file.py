"""A plan as plain data, which storage and MLflow keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablate.core import provenance as origins
from ablate.core.redaction import redact
from ablate.core.text import now_ms
from ablate.learning import data
from ablate.planning.plan import Plan
from ablate.spaces.specs import DataSpec
from ablate.storage.plans import LAYOUT as PLAN_LAYOUT
from ablate.storage.plans import DataPart, PlanFile, RowPart, SpacePart, TrialPart


def plan_file_of(plan: Plan, provenance: Mapping[str, str] | None = None) -> PlanFile:
    """A plan as plain data, launched now.

    Args:
        plan: What was decided.
        provenance: Commit, versions, command; none: found out here. Secrets in it are left out.
    """
    now = now_ms()
    notes = {(planned.trial.space, planned.trial.label): planned.trial.note for planned in plan.trials}
    spaces = [
        SpacePart(
            name=loaded.name,
            title=loaded.space.title,
            description=loaded.space.description,
            table=loaded.space.table,
            rows=[
                RowPart(
                    label=row.label,
                    note=notes.get((loaded.name, row.label), row.note),
                    published=row.published,
                    sample=dict(row.set) if loaded.space.search is not None else None,
                )
                for row in loaded.space.rows
            ],
            claims=[claim.model_dump(mode="json", exclude_none=True) for claim in loaded.space.claims],
            design=loaded.space.design,
            registration=plan.registrations.get(loaded.name),
            not_needed=plan.not_needed.get(loaded.name, {}),
            figures=list(loaded.space.figures),
            search=loaded.space.search.model_dump(mode="json", exclude_unset=True) if loaded.space.search else None,
        )
        for loaded in plan.spaces
    ]
    return PlanFile(
        layout=PLAN_LAYOUT,
        id=plan.id,
        preset=plan.preset.name,
        overrides=[redact(text) for text in plan.overrides],
        seeds=list(plan.seeds),
        decides_claims=plan.preset.preset.decides_claims,
        spaces=spaces,
        trials=_trials(plan),
        provenance=_clean(origins.provenance() if provenance is None else provenance),
        created_ms=now,
        launched_ms=now,
        until=plan.until,
    )


def _clean(provenance: Mapping[str, str]) -> dict[str, str]:
    # A path of bytes that are no UTF-8 cannot be written as JSON.
    return {name: redact(str(value)).encode("utf-8", "backslashreplace").decode() for name, value in provenance.items()}


def _trials(plan: Plan) -> list[TrialPart]:
    paper = data.describe(DataSpec(), Path())
    constant = (paper.train_digest, paper.test_digest)
    parts = []
    for each in plan.trials:
        trial, found = each.trial, each.data
        is_paper = trial.spec.data.name == "cifar10" and (found.train_digest, found.test_digest) == constant
        parts.append(
            TrialPart(
                space=trial.space,
                row=trial.label,
                seed=trial.seed,
                training=each.training,
                columns=dict(each.columns),
                analyses=dict(each.analyses),
                origin=plan.trainings[each.training].origin,
                data=DataPart(
                    name=trial.spec.data.name,
                    label=found.label,
                    train_digest=found.train_digest,
                    test_digest=found.test_digest,
                    train_count=found.train_count,
                    test_count=found.test_count,
                    classes=found.classes,
                    paper=is_paper,
                ),
                spec=trial.spec.model_dump(mode="json"),
            )
        )
    return parts
