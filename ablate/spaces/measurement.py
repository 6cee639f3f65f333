"""What is measured on a trained network: the settings under `measurement`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ablate.core.filters import Filter
from ablate.spaces.base import Spec
from ablate.spaces.networks import NAMES

COLUMNS = ("natural", "gn", "fgsm", "pgd20", "bim20", "tpgd20", "cw20")
"""The seven columns of the paper's tables."""
ON_FIRST_IMAGES = ("apgd_ce", "apgd_t", "fab_t", "square", "aa", "worst")
"""Columns of the field's yardstick, which `measurement.images` cuts short."""
IN_BANDS = ("pgd20_low", "pgd20_mid", "pgd20_high")
"""Columns of PGD-20 inside one band of the spectrum."""

Degree = Annotated[int, Field(ge=1)]


class MeasurementSpec(Spec):
    """What is measured on the trained network, on the test split."""

    attacks: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        (*COLUMNS, "cw20_exact"), description="Columns of the table, each a registered attack."
    )
    eps_255: float = Field(8.0, ge=0, le=255, description="Radius of the l-infinity ball, in 1/255.")
    step_255: float = Field(2.0, ge=0, le=255, description="Step size alpha, in 1/255.")
    noise_std: float = Field(0.1, ge=0, description="Standard deviation of Gaussian noise (gn), pixels in [0, 1].")
    cw_c: float = Field(1.0, ge=0, description="CW: weight of the margin.")
    cw_kappa: float = Field(0.0, ge=0, description="CW: confidence.")
    cw_learning_rate: float = Field(0.01, gt=0, description="CW: Adam's learning rate.")
    square_queries: int = Field(5000, ge=1, description="square and aa: queries of an image.")
    images: int | None = Field(
        None,
        ge=1,
        description="apgd_ce, apgd_t, fab_t, square, aa, worst: on the first so many test images; none: all.",
    )
    batch_size: int = Field(500, ge=1, description="Images attacked at once; only cw20's early stop depends on it.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="In which attacks search. What they find is always judged in float32, and searched for again in "
        "float32 where it fools the network in bfloat16 alone.",
    )
    lowpass_degree: int | None = Field(None, ge=2, description="Keep the central d x d of the spectrum; none: all.")
    lowpass_adaptive: bool = Field(True, description="With a degree: also attack through the filter.")
    highpass_degree: int | None = Field(
        None, ge=1, description="Keep only what the low-pass filter of degree d takes away; none: all."
    )
    highpass_keep_mean: bool = Field(
        False, description="With highpass_degree: each channel keeps its mean, which the filter takes away otherwise."
    )
    bandstop_degrees: Annotated[tuple[Degree, Degree], Field(strict=False)] | None = Field(
        None, description="Keep all but what lies between the low-pass filters of two degrees; none: all."
    )
    analyses: Annotated[tuple[str, ...], Field(strict=False)] = Field((), description="Registered analyses to run.")
    heat_map_norm: float = Field(4.0, gt=0, description="heat_map: L2 norm of a wave in a channel, pixels 0 to 1.")
    heat_map_images: int = Field(1000, ge=1, description="heat_map: on the first so many test images.")
    transfer_from: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Rows of the same space whose networks' PGD-20 examples this row's network is to classify, too."
    )
    others: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="Columns that networks beside the row's own get, and no analyses; none: all that it has."
    )
    network: str | None = Field(
        None,
        pattern=f"^({NAMES.pattern})$",
        description="Whose numbers the row has: last, best, ema, ema_best or epoch:60, and of no other network; none: "
        "last's, and beside them those of all that the training keeps.",
    )

    @model_validator(mode="after")
    def _no_column_twice(self) -> Self:
        for names in (self.attacks, self.analyses, self.transfer_from):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"expected each name once, got {sorted(twice)[0]!r} twice")
        return self

    @model_validator(mode="after")
    def _one_filter(self) -> Self:
        names = ("lowpass_degree", "highpass_degree", "bandstop_degrees")
        asked = {name: value for name in names if (value := getattr(self, name)) is not None}
        if len(asked) > 1:
            paths, values = (f"measurement.{name}" for name in asked), (str(value) for value in asked.values())
            raise ValueError(
                f"expected one of {' and '.join(paths)}, got {' and '.join(values)}; none switches one off"
            )
        if self.bandstop_degrees is not None and self.bandstop_degrees[1] <= self.bandstop_degrees[0]:
            inner, outer = self.bandstop_degrees
            raise ValueError(
                "expected measurement.bandstop_degrees of a smaller and a larger one, between which a band is "
                f"removed, got {inner} and {outer}"
            )
        return self

    @property
    def filter(self) -> Filter | None:
        """What stands in front of the network; None where no filter was asked for."""
        if self.bandstop_degrees is not None:
            return Filter("bandstop", *self.bandstop_degrees)
        if self.highpass_degree is not None:
            return Filter("highpass", self.highpass_degree, keep_mean=self.highpass_keep_mean)
        return None if self.lowpass_degree is None else Filter("lowpass", self.lowpass_degree)
