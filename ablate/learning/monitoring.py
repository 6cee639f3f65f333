"""What every training logs about its network after each epoch, measured in float32 and evaluation mode."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ablate.analysis.energy import hfi, lfi, lfi_hfi_ratio
from ablate.attacks import PGD, Attack, Natural, evaluate
from ablate.attacks.evaluation import as_float
from ablate.core.modes import evaluating
from ablate.learning.models import first_activation, frozen_parameters, mask_statistics
from ablate.learning.models.folding import InParts
from ablate.spaces.specs import ONE_STEP, TrainingAttackSpec

PROBE_IMAGES = 512
"""How many of the images trained on, from the first, unaugmented, the energies and the natural accuracy are of."""

_VALIDATION_BATCH = 512


def probe_metrics(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Energies of the first activation, natural accuracy, and how open FAT's masks are.

    Args:
        network: Left as it was found.
        images: [N, 3, H, W] uint8, the probe.
        labels: [N] int64.

    Returns:
        `energy/ratio` (R = |LFI| / |HFI| of hardtanh(bn1(conv1(x)))), `energy/lfi` and `energy/hfi` (the norms
        themselves, each the mean over the images), `train/accuracy_natural` in percent (nan where a logit is), and
        `fat/mask_*` of a network with FAT.

    Source: Section 3.1.3.
    """
    pixels = as_float(images)
    with torch.no_grad(), frozen_parameters(network), evaluating(network):
        activation = first_activation(network, pixels)
        logits = network(pixels)
        # A nan would count as class 0.
        broken = torch.where(torch.isfinite(logits).all(), 0.0, torch.nan)
        values = {
            "energy/ratio": lfi_hfi_ratio(activation),
            "energy/lfi": torch.linalg.vector_norm(lfi(activation), dim=(1, 2, 3)).mean(),
            "energy/hfi": torch.linalg.vector_norm(hfi(activation), dim=(1, 2, 3)).mean(),
            "train/accuracy_natural": 100.0 * (logits.argmax(dim=1) == labels).double().mean() + broken,
        }
    return {name: value.item() for name, value in values.items()} | mask_statistics(network)


class Validation:
    """The images held out to choose the best epoch.

    Args:
        images: [N, 3, H, W] uint8, on the device.
        labels: [N] int64, on the device.
        places: [N] int64, where the images are in the training split: what their random numbers hang on.
        attack: The training attack, with whose parameters they are attacked.
        seed: The trial's seed.
        measured: The network as measurements ask it, see `as_measured`; None: it is asked itself.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        places: npt.NDArray[np.int64],
        attack: TrainingAttackSpec,
        seed: int,
        measured: InParts | None = None,
    ) -> None:
        self.measured = measured
        self.images, self.labels, self.seed = images, labels, seed
        self.places = torch.from_numpy(places)
        self.attack = _attack(attack)
        self.reference = _attack(TrainingAttackSpec())

    def metrics(self, network: nn.Module) -> dict[str, float]:
        """Accuracies in percent, with the same noise in every epoch.

        Args:
            network: Left as it was found.

        Returns:
            `validation/natural`, `validation/attack` under the training attack (the same without one), and
            `validation/robust` under the paper's PGD-7 of 8/255, by which trainings with other attacks compare.
        """
        with frozen_parameters(network), evaluating(network):
            if self.measured is not None:
                self.measured.refresh()
            asked = self.measured or network
            natural = self._accuracy(asked, Natural())
            robust = self._accuracy(asked, self.reference)
            # Nothing is attacked twice: most trainings use the paper's own attack.
            known = {repr(Natural()): natural, repr(self.reference): robust}
            attacked = known.get(repr(self.attack))
            if attacked is None:
                attacked = self._accuracy(asked, self.attack)
            return {"validation/natural": natural, "validation/attack": attacked, "validation/robust": robust}

    def _accuracy(self, network: nn.Module, attack: Attack) -> float:
        correct = evaluate(
            network,
            attack,
            self.images,
            self.labels,
            seed=self.seed,
            batch_size=_VALIDATION_BATCH,
            index=self.places,
        )[None]
        return 100.0 * int(correct.sum()) / len(correct)


def _attack(spec: TrainingAttackSpec) -> Attack:
    if spec.name == "none":
        return Natural()
    if spec.name in ONE_STEP:
        # One step says nothing of robustness once a network has overfitted to it; the paper's own attack, scaled.
        return PGD(name="validation", eps_255=spec.eps_255, step_255=spec.eps_255 / 4, steps=TrainingAttackSpec().steps)
    return PGD(
        name="validation",
        eps_255=spec.eps_255,
        step_255=spec.step_255,
        steps=spec.steps,
        random_start=spec.random_start,
    )
