"""FAB in its targeted form: from each image to the nearest point of the boundary to another class.

Every step projects onto the plane where the two logits would meet, were the network linear, within [0, 1]; what is
misclassified is drawn back towards the image. As in AutoAttack's standard version, but for two things that only save
time: an image is done with as soon as it is broken within the radius, and the projection finds its multiplier by Newton
steps, not by sorting all pixels.

Source: arXiv 1907.02044.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ablate.attacks.active_set import ActiveSet, first_of_several, in_whole_batches, joined, repeated
from ablate.attacks.apgd import likeliest_others, logit_of, start_on_the_face, wrong_already
from ablate.attacks.base import Attack, Network, later, refuse_negative, register_attack
from ablate.attacks.linf import LinfAttack
from ablate.core.randomness import stream
from ablate.spaces.specs import MeasurementSpec

OVERSHOOT, BACK, MOST_BIAS = 1.05, 0.9, 0.1
"""eta, beta and alpha_max of the paper."""

_NEWTON_STEPS = 12
"""The share of pixels at an edge of [0, 1] settles in a handful; on a machine's numbers nothing moves after these."""

_SPLIT_FROM = 0.5
"""From this share of misclassified images on it is cheaper to ask for the gradients after they have been drawn back."""

_TINY = 1e-12


def project_linf(points: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    """The smallest change, in the l-infinity norm, that brings points onto a plane and keeps them in [0, 1].

    A step of size s moves every pixel by s along the plane's normal, up to its edge of [0, 1]; what that gains is a
    concave function of s, and Newton's steps from below find where it is enough.

    Args:
        points: [N, D] in [0, 1].
        normal: [N, D], w of the plane w z = b.
        offset: [N], b.

    Returns:
        [N, D] the change; as far as [0, 1] goes, where the plane lies beyond it.
    """
    lacking = offset - (normal * points).sum(dim=1)
    ahead = (normal * lacking.sign()[:, None]) > 0
    room = torch.where(ahead, 1.0 - points, points)
    weight, lacking = normal.abs(), lacking.abs()
    size = torch.zeros_like(lacking)
    gained = torch.zeros_like(lacking)
    most = room.amax(dim=1)
    for _ in range(_NEWTON_STEPS):
        before = size
        # Compared into numbers: a CPU chooses by truth values five times slower than it multiplies.
        slope = torch.gt(room, size[:, None], out=torch.empty_like(room)).mul_(weight).sum(dim=1)
        size = torch.where(slope > 0, size + (lacking - gained).clamp(min=0.0) / (slope + _TINY**2), most)
        size = torch.minimum(size, most)
        if size.device.type == "cpu" and torch.equal(size, before):  # nothing moves any more; a GPU would have to wait
            break
        gained = (weight * torch.minimum(room, size[:, None])).sum(dim=1)
    change = torch.minimum(room, size[:, None])
    return torch.where(ahead, change, -change) * (weight > 0)


@dataclass(frozen=True, kw_only=True, repr=False)
class TargetedFAB(LinfAttack):
    """Targeted FAB: the boundary to one class after the other.

    Args:
        eps_255: Radius within which a misclassified image counts, in 1/255.
        steps: Iterations for each target.
        targets: Classes aimed at, at most one less than there are.
        restarts: Starts for each target: the first at the image, later ones at random around it.
    """

    uses_clean_logits: ClassVar[bool] = True
    reducible: ClassVar[bool] = True
    spares_broken: ClassVar[bool] = True

    name: str = "fab_t"
    eps_255: float = 8.0
    steps: int = 100
    targets: int = 9
    restarts: int = later(1)

    def __post_init__(self) -> None:
        refuse_negative(self, "eps_255", "steps", "targets", "restarts")

    def perturb(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        seed: int,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """As in `Attack.perturb`; images that it cannot break within the radius come back as they are."""
        images = images.detach()
        logits, done = wrong_already(network, images, labels, clean_logits)
        others = likeliest_others(logits, labels, self.targets)

        def attempt(which: Sequence[tuple[int, int]], places: Tensor) -> tuple[Tensor, Tensor]:
            chosen = repeated(images, places, 1)
            starts = []
            for rank, restart in which:
                start = chosen
                if restart:
                    key = stream(seed, f"attack:{self.name}", rank, restart)
                    start = start_on_the_face(chosen, self.eps_255 / 255 / 2, key, index[places])
                starts.append(start)
            return self._approach(
                network,
                repeated(images, places, len(which)),
                repeated(labels, places, len(which)),
                torch.cat([others[places, rank] for rank, _ in which]),
                joined(starts, images),
            )

        # What is not broken comes back from `_approach` as it was, also of the first attempt.
        return first_of_several(images, done, attempt, itertools.product(range(others.shape[1]), range(self.restarts)))

    def _approach(
        self, network: Network, images: Tensor, labels: Tensor, targets: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        eps = self.eps_255 / 255
        flat = torch.zeros_like(images)
        ahead = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        done = torch.zeros_like(labels, dtype=torch.bool)
        left = ActiveSet(
            images, done, image=images, labels=labels, targets=targets, now=start, gradient=flat, ahead=ahead
        )
        ask = in_whole_batches(network)

        def look(which: Tensor | None = None) -> Tensor:
            """Take the lead of the target's logit and its gradient; whether images are misclassified where they are."""
            chosen = {name: left[name] if which is None else left[name][which] for name in ("now", "labels", "targets")}
            with torch.enable_grad():
                now = chosen["now"].detach().requires_grad_()
                logits = ask(now)
                lead = logit_of(logits, chosen["targets"]) - logit_of(logits, chosen["labels"])
                (gradient,) = torch.autograd.grad(lead.sum(), now)
            lead = lead.detach()
            if which is None:
                left["ahead"], left["gradient"] = lead, gradient
            else:
                left["ahead"], left["gradient"] = left["ahead"].clone(), left["gradient"].clone()
                left["ahead"][which], left["gradient"][which] = lead, gradient
            return logits.detach().argmax(1) != chosen["labels"]

        share = 0.0 if images.device.type == "cpu" else 1.0
        if self.steps and len(left):
            look()
        for step in range(self.steps):
            if not len(left):
                break
            left["now"] = self._step(left)
            last = step + 1 == self.steps
            together = not last and share < _SPLIT_FROM
            if together:
                wrong = look()
            else:
                with torch.no_grad():
                    wrong = ask(left["now"]).argmax(1) != left["labels"]
            distance = (left["now"] - left["image"]).abs().amax(dim=(1, 2, 3))
            drawn_back = left["image"] + BACK * (left["now"] - left["image"])
            candidates = left["now"]
            left["now"] = torch.where(wrong[:, None, None, None], drawn_back, candidates)
            left["moved"] = wrong
            if images.device.type == "cpu":
                share = float(wrong.double().mean())
            left.note(wrong & (distance <= eps), candidates)
            if last or not len(left):
                continue
            if not together:
                look()
            elif bool(left["moved"].any()):
                look(left["moved"].nonzero().squeeze(1))
        return left.settle(), left.broken

    @staticmethod
    def _step(left: ActiveSet) -> Tensor:
        now, image, gradient = left["now"], left["image"], left["gradient"]
        count = len(now)
        normal, here, there = gradient.flatten(1), now.flatten(1), image.flatten(1)
        offset = (normal * here).sum(dim=1) - left["ahead"]
        change = project_linf(torch.cat([here, there]), torch.cat([normal, normal]), torch.cat([offset, offset]))
        size = change.abs().amax(dim=1).clamp(min=1e-8)
        bias = (size[:count] / (size[:count] + size[count:])).clamp(max=MOST_BIAS)[:, None, None, None]
        from_here, from_image = change[:count].view_as(now), change[count:].view_as(now)
        moved = (now + OVERSHOOT * from_here) * (1 - bias) + (image + OVERSHOOT * from_image) * bias
        return moved.clamp(0.0, 1.0)


@register_attack("fab_t")
def _fab_t(spec: MeasurementSpec) -> Attack:
    return TargetedFAB(eps_255=spec.eps_255)
