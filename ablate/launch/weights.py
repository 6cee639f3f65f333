"""Weights from elsewhere, on their way to the workers: through storage, which every machine of a launch reaches."""

from __future__ import annotations

from ablate.core.errors import DataError, StorageError
from ablate.learning import foreign
from ablate.planning.plan import Plan, PlannedTraining
from ablate.storage import checkpoints
from ablate.storage.storage import Storage


def keep_weights(plan: Plan, training: PlannedTraining, storage: Storage) -> None:
    """Put the weights of a training into storage, if they are not there.

    Args:
        plan: With the training.
        training: One with weights from elsewhere.
        storage: Where workers look for them.

    Raises:
        DataError: The file is not what it was when the plan was made.
    """
    digest = training.weights
    assert digest is not None
    try:
        if foreign.digest(checkpoints.load_network(storage.weights(digest))) == digest:
            return
    except StorageError:
        pass  # not there yet, or damaged
    classes = next(planned.data.classes for planned in plan.trials if planned.training == training.key)
    model = training.spec.model
    found = foreign.load(model, classes, training.spec.data.image_size)
    if foreign.digest(found) != digest:
        raise DataError(f"model.weights: expected {model.weights} as it was when the launch began, got other weights")
    storage.keep_weights(digest, checkpoints.save_network(found))
