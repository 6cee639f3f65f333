"""What a trial is: frozen pydantic models whose defaults are the paper's settings.

A trial is data, a network, a training, its measurements and a seed. What identifies a training or a measurement is
computed from these models in `ablate.planning.keys`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ablate.core.filters import Filter
from ablate.spaces.base import Spec as Spec
from ablate.spaces.measurement import COLUMNS as COLUMNS
from ablate.spaces.measurement import MeasurementSpec as MeasurementSpec
from ablate.spaces.networks import epoch_of, needed_for, networks_of

ONE_STEP = frozenset({"fgsm_rs", "n_fgsm"})
"""Training attacks of one step, whose size and start are their own."""

PAPER_EPOCHS = 120
PAPER_MILESTONES = ((60, 0.1), (90, 0.1), (110, 0.5))
PAPER_BATCH_SIZE = 512
MIXING = frozenset({"mixup", "cutmix"})
"""Augmentations whose labels are mixed; a user's own are asked by what they give back."""
FILTERS = ("lowpass", "highpass", "bandstop")
"""Augmentations that leave some frequencies of an image alone."""
ONE_CYCLE = (1 / 25, 1 / 250_000, 0.3)
"""Factors at the start and at the end, and when the rate is highest: PyTorch's defaults (arXiv 1708.07120)."""


PerChannel = Annotated[tuple[float, float, float], Field(strict=False)]


class DataSpec(Spec):
    """Which images are trained on and measured with."""

    name: Literal["cifar10", "cifar100", "svhn", "imagefolder", "digits"] = Field(
        "cifar10", description="Which data set."
    )
    root: str | None = Field(None, description="imagefolder: the folder with train/ and test/. Not part of any key.")
    image_size: int = Field(32, ge=8, le=256, multiple_of=2, description="Height and width in pixels.")
    validation: float = Field(
        0.0, ge=0.0, le=0.5, description="Share of the training images held out to choose `best`; 0 keeps all."
    )
    label: str | None = Field(None, description="How reports name the data. Not part of any key.")


class QuantizationSpec(Spec):
    """How weights and activations are quantized (Section 3.3.2; FAT: arXiv 2102.07444)."""

    bits: int = Field(32, ge=2, le=32, description="Bit width of weights and activations; 32 is full precision.")
    activation_bits: int | None = Field(None, ge=2, le=32, description="Other bit width of activations; none: bits.")
    weights: Literal["standardized", "max_abs"] = Field("standardized", description="How weights are scaled.")
    fat: bool = Field(False, description="Learn a mask on the spectrum of the weights (FAT).")
    standardize_only: bool = Field(False, description="32 bits: standardize the weights and do nothing else.")
    fat_learning_rate: float | None = Field(None, gt=0, description="FAT's own learning rate; none: the network's.")
    fat_weight_decay: float | None = Field(None, ge=0, description="FAT's own weight decay; none: the network's.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.standardize_only and (self.bits != 32 or self.fat):
            raise ValueError("expected bits: 32 and fat: false with standardize_only: true, which is their control")
        return self


class ModelSpec(Spec):
    """Which network."""

    arch: str = Field("resnet20", min_length=1, description="Name of a registered network.")
    activation: Literal["relu", "hardtanh"] = Field("relu", description="The non-linearity everywhere.")
    width: float = Field(1.0, gt=0, le=4, description="Multiplies the channels of every layer.")
    depth: int | None = Field(None, ge=4, description="Other number of layers, where the network has a choice.")
    weights: str | None = Field(
        None,
        min_length=1,
        description="A file of weights trained elsewhere: measured as they are, trained never. Known by its content.",
    )
    input_mean: PerChannel | None = Field(None, description="Of red, green, blue: subtracted inside the network.")
    input_std: PerChannel | None = Field(None, description="Of red, green, blue: divided by inside the network.")
    quantization: QuantizationSpec = QuantizationSpec()

    @model_validator(mode="after")
    def _whole_normalization(self) -> Self:
        if (self.input_mean is None) != (self.input_std is None):
            missing = "input_std" if self.input_std is None else "input_mean"
            raise ValueError(f"expected model.input_mean and model.input_std together, got no model.{missing}")
        if self.input_std is not None and min(self.input_std) <= 0:
            raise ValueError(f"expected model.input_std above 0, got {min(self.input_std):g}")
        return self


class TrainingAttackSpec(Spec):
    """The attack that makes the examples trained on; `none` is natural training."""

    name: Literal["pgd", "fgsm_rs", "n_fgsm", "none"] = Field(
        "pgd",
        description="pgd; fgsm_rs: one step of 1.25 eps from a random start; n_fgsm: one of eps from noise of 2 eps, "
        "not projected; none: natural training.",
    )
    steps: int = Field(7, ge=1, le=1000, description="Iterations.")
    eps_255: float = Field(8.0, ge=0, le=255, description="Radius of the l-infinity ball, in 1/255.")
    step_255: float = Field(2.0, ge=0, le=255, description="Step size alpha, in 1/255.")
    random_start: bool = Field(True, description="Start from a uniform point of the ball.")
    network_mode: Literal["eval", "train"] = Field("eval", description="The network's mode while attacked.")

    @property
    def passes(self) -> int:
        """Gradients that it takes of each image."""
        return {"pgd": self.steps, "none": 0}.get(self.name, 1)

    @property
    def title(self) -> str:
        """How it is called beside a number: `PGD-7`, `FGSM-RS`; nothing of natural training."""
        return {"pgd": f"PGD-{self.steps}", "none": ""}.get(self.name, self.name.replace("_", "-").upper())


class AugmentationSpec(Spec):
    """Mix-up, cutout, cutmix or a filter, on clean or on adversarial examples (Section 3.2)."""

    name: str = Field(
        "none",
        min_length=1,
        description="none, mixup, cutout, cutmix, lowpass, highpass, bandstop or a registered one.",
    )
    order: Literal["clean", "adversarial"] = Field("adversarial", description="clean: C-, before the attack; else A-.")
    beta: float = Field(1.0, gt=0, description="Both parameters of the beta distribution of proportions.")
    bce_reduction: Literal["mean", "sum"] = Field("mean", description="Over classes, of the binary cross-entropy.")
    degree: int | None = Field(
        None, ge=1, description="lowpass, highpass: of the filter, as of measurement.lowpass_degree, and odd."
    )
    outer_degree: int | None = Field(None, ge=1, description="bandstop: frequencies from degree to here are removed.")

    @property
    def filter(self) -> Filter | None:
        """The filter that it is; None of other augmentations."""
        if self.name not in FILTERS or self.degree is None:
            return None
        return Filter(self.name, self.degree, self.outer_degree if self.name == "bandstop" else None)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _whole_filter(self) -> Self:
        if self.name not in FILTERS:
            return self
        asked = {"degree": self.degree, "outer_degree": self.outer_degree}
        for name, degree in asked.items() if self.name == "bandstop" else [("degree", self.degree)]:
            if degree is None or degree % 2 == 0:
                got = "none" if degree is None else degree
                raise ValueError(
                    f"expected an odd training.augmentation.{name} with training.augmentation.name: {self.name}, which "
                    f"is alike in both signs of a frequency, got {got}"
                )
        if self.name == "bandstop" and self.outer_degree <= self.degree:  # type: ignore[operator]
            raise ValueError(
                f"expected training.augmentation.outer_degree above training.augmentation.degree ({self.degree}), "
                f"between which a band is removed, got {self.outer_degree}"
            )
        return self


class Milestone(Spec):
    """From the end of this epoch on, the learning rate is multiplied by the factor."""

    epoch: int = Field(ge=1)
    factor: float = Field(gt=0)


class AverageSpec(Spec):
    """An exponential moving average of a training's weights, measured beside them; no bit of the training changes."""

    decay: float = Field(0.999, gt=0, lt=1, description="Share of the average that stays at each update.")
    start: int = Field(0, ge=0, description="Epochs before it begins.")
    normalization: Literal["averaged", "recalibrated"] = Field(
        "averaged",
        description="Of its batch normalizations. averaged: as the weights; recalibrated: estimated anew on "
        "adversarial training batches of the average itself.",
    )


class TrainingSpec(Spec):
    """How the network is trained (Section 3)."""

    epochs: int = Field(PAPER_EPOCHS, ge=1, le=100_000, description="Passes over the training images.")
    batch_size: int = Field(
        PAPER_BATCH_SIZE,
        ge=2,
        description="Images per optimizer step. An epoch's last batch may be smaller; a rest of one image joins none.",
    )
    learning_rate: float = Field(0.1, gt=0, description="Of SGD: at the start, or the highest of the schedule.")
    learning_rate_scaling: Literal["none", "linear"] = Field(
        "none", description="linear: multiplied by batch_size / 512 (arXiv 1706.02677)."
    )
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, description="Of every parameter.")
    milestones: Annotated[tuple[Milestone, ...], Field(strict=False)] | None = Field(
        None, description="Learning-rate steps; none: the paper's 60, 90, 110 of 120, scaled to `epochs`."
    )
    schedule: Literal["milestones", "cosine", "one_cycle", "cyclic"] = Field(
        "milestones",
        description="Of the learning rate. cosine: half a wave to 0; one_cycle: up from 1/25 for 30 %, then down to "
        "1/250,000; cyclic: up from 0 and down again in straight lines. All but milestones change with every step.",
    )
    crop_padding: int = Field(4, ge=0, le=64, description="Random crop after padding by so many pixels; 0: none.")
    flip: bool = Field(True, description="Random horizontal flip.")
    objective: str = Field(
        "pgd_at", min_length=1, description="What is minimized: pgd_at, trades, mart or a registered one."
    )
    objective_weight: float | None = Field(
        None, ge=0, description="Weight of its second term; none: its own, 6 of trades (1/lambda), 5 of mart."
    )
    awp: float = Field(0.0, ge=0, le=1, description="AWP: relative size of the weights' perturbation; 0: none.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the cross-entropy that is trained, not attacked.")
    attack: TrainingAttackSpec = TrainingAttackSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    ema: AverageSpec | None = Field(
        None,
        description="Average of the weights: networks ema and, with data.validation, ema_best. Not part of any key.",
    )
    keep: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = Field(
        (), description="Epochs whose networks are kept and measured too, as epoch:60. Not part of any key."
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="Of training alone; see measurement.precision. tf32: a GPU's, float32 on a CPU."
    )
    compile: bool = Field(False, description="Train through torch.compile.")

    @model_validator(mode="after")
    def _milestones_in_range(self) -> Self:
        for milestone in self.milestones or ():
            if milestone.epoch >= self.epochs:
                raise ValueError(
                    f"expected milestones before the last epoch ({self.epochs}), got one at epoch {milestone.epoch}"
                )
        return self

    @model_validator(mode="after")
    def _kept_in_range(self) -> Self:
        if self.ema is not None and self.ema.start >= self.epochs:
            raise ValueError(f"expected training.ema.start before the last epoch ({self.epochs}), got {self.ema.start}")
        for epoch in self.keep:
            if epoch > self.epochs:
                raise ValueError(f"expected training.keep of epochs up to the last one ({self.epochs}), got {epoch}")
            if self.keep.count(epoch) > 1:
                raise ValueError(f"expected each epoch of training.keep once, got {epoch} twice")
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        name, objective, smoothing = self.augmentation.name, self.objective, self.label_smoothing
        if name in MIXING and smoothing:
            raise ValueError(f"expected training.label_smoothing: 0 with mixed labels ({name}), got {smoothing:g}")
        if objective == "pgd_at":
            if self.objective_weight is not None:
                raise ValueError(
                    "expected no training.objective_weight with training.objective: pgd_at, which has no second term, "
                    f"got {self.objective_weight:g}"
                )
            return self
        if objective == "mart" and name in MIXING:
            raise ValueError(
                f"expected hard labels with training.objective: mart, got training.augmentation.name: {name}"
            )
        if objective == "mart" and smoothing:
            raise ValueError(f"expected training.label_smoothing: 0 with training.objective: mart, got {smoothing:g}")
        if name != "none" and self.augmentation.order != "clean":
            raise ValueError(
                f"expected training.augmentation.order: clean with training.objective: {objective}, which sets an "
                f"image beside its adversarial example, got {self.augmentation.order}"
            )
        if objective in ("trades", "mart") and self.attack.name == "none":
            raise ValueError(f"expected a training.attack with training.objective: {objective}, got none")
        if objective == "trades" and self.attack.name == "pgd" and not self.attack.random_start:
            raise ValueError(
                "expected training.attack.random_start: true with training.objective: trades, whose attack has no "
                "gradient at the image itself, got false"
            )
        return self

    def steps_of_rate(self) -> tuple[Milestone, ...]:
        """The milestones in force: the given ones, or the paper's scaled to `epochs`.

        Returns:
            In the order of their epochs. Scaled ones are rounded half up and dropped where nothing would follow.
        """
        if self.milestones is not None:
            return tuple(sorted(self.milestones, key=lambda milestone: milestone.epoch))
        scaled = [(int(epoch * self.epochs / PAPER_EPOCHS + 0.5), factor) for epoch, factor in PAPER_MILESTONES]
        return tuple(Milestone(epoch=epoch, factor=factor) for epoch, factor in scaled if 1 <= epoch < self.epochs)

    @property
    def base_rate(self) -> float:
        """learning_rate, times batch_size / 512 when scaled linearly: what schedules go by."""
        scaled = self.learning_rate_scaling == "linear"
        return self.learning_rate * (self.batch_size / PAPER_BATCH_SIZE) if scaled else self.learning_rate

    def learning_rate_at(self, epoch: int, progress: float = 0.0) -> float:
        """The learning rate at a moment.

        Args:
            epoch: From 1 to `epochs`.
            progress: Share of the epoch that is done; of no effect on milestones.

        Returns:
            The base rate * the factors of the milestones passed, or * the schedule's factor.
        """
        rate = self.base_rate
        if self.schedule != "milestones":
            return rate * _factor(self.schedule, (epoch - 1 + progress) / self.epochs)
        for milestone in self.steps_of_rate():
            if epoch > milestone.epoch:
                rate *= milestone.factor
        return rate


def _factor(schedule: str, done: float) -> float:
    """What a schedule multiplies the base rate by, once this share of a training is done."""
    if schedule == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2.0
    if schedule == "cyclic":
        return 1.0 - abs(2.0 * done - 1.0)
    start, end, top = ONE_CYCLE
    if done < top:
        return start + (1.0 - start) * (1.0 - math.cos(math.pi * done / top)) / 2.0
    return end + (1.0 - end) * (1.0 + math.cos(math.pi * (done - top) / (1.0 - top))) / 2.0


class TrialSpec(Spec):
    """One row of a table with one seed: everything that makes its numbers."""

    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    measurement: MeasurementSpec = MeasurementSpec()
    seed: int = Field(0, ge=0, lt=2**31)

    @property
    def epochs(self) -> int:
        """Epochs that it is trained: none with weights from elsewhere."""
        return self.training.epochs if self.model.weights is None else 0

    @property
    def held_out(self) -> float:
        """The share of the training images that is held out to choose `best`; none where nothing is trained."""
        return self.data.validation if self.model.weights is None else 0.0

    @model_validator(mode="after")
    def _network_is_kept(self) -> Self:
        asked, kept = self.measurement.network, networks_of(self)
        if asked is None:
            return self
        epoch = epoch_of(asked)
        if epoch is not None and epoch > self.epochs:
            raise ValueError(f"expected measurement.network of an epoch up to {self.epochs}, got {asked}")
        if asked not in kept:
            got = "weights that are not trained" if not self.epochs else "none"
            raise ValueError(f"expected {needed_for(asked)} with measurement.network: {asked}, got {got}")
        return self

    @model_validator(mode="after")
    def _degree_fits(self) -> Self:
        size = self.data.image_size
        removed = self.measurement.highpass_degree
        if removed is not None and removed >= size:
            raise ValueError(
                f"expected measurement.highpass_degree below data.image_size ({size}), which would leave nothing, got "
                f"{removed}"
            )
        largest = {"measurement.lowpass_degree": self.measurement.lowpass_degree}
        if self.measurement.bandstop_degrees is not None:
            largest["measurement.bandstop_degrees"] = self.measurement.bandstop_degrees[1]
        trained = self.training.augmentation.filter if self.epochs else None
        if trained is not None and trained.outer is None:
            largest["training.augmentation.degree"] = trained.degree
        elif trained is not None:
            largest["training.augmentation.outer_degree"] = trained.outer
        for path, degree in largest.items():
            if degree is not None and degree > size:
                raise ValueError(f"expected {path} of at most data.image_size ({size}), got {degree}")
        return self
