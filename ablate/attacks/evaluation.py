"""Which images a network still gets right under an attack, seen through filters of their frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ablate.analysis.lowpass import filtered
from ablate.attacks.base import Attack, Network
from ablate.core.errors import MeasurementError
from ablate.core.filters import Filter
from ablate.core.modes import evaluating

_ROUNDING = 1e-6
"""How far beyond [0, 1] a pixel may be: what float32 rounds off when an image is put together."""

_CLOSE = 0.02
"""Of the largest logit: more than kernels of a search in half precision differ by."""


def as_float(images: Tensor) -> Tensor:
    """Images as attacks and networks take them.

    Args:
        images: [N, C, H, W] uint8 in 0..255, or float in [0, 1].

    Returns:
        uint8 as float32 / 255, float as it is; memory format as given.
    """
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def through_filter(network: Network, seen: Filter | None) -> Network:
    """The network behind a filter: x -> network(filtered(x, seen)).

    Args:
        network: Images to logits.
        seen: Which frequencies it sees; None: no filter.

    Returns:
        Images to logits; gradients pass through the filter.
    """
    if seen is None:
        return network
    return lambda images: network(filtered(images, seen))


class Checks:
    """What attacks and networks handed over, looked at without making the host wait for the device until asked.

    Shapes are refused at once. Values are folded into a few numbers on the device, which `settle` fetches together.

    Args:
        attack: Names the attack in errors.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self._sound: list[tuple[str, Tensor]] = []

    def examples(self, perturbed: Tensor, original: Tensor) -> None:
        """Note whether adversarial images are images: finite, in [0, 1], as many and as large as they were.

        Args:
            perturbed: What the attack made of `original`.
            original: [N, C, H, W].

        Raises:
            MeasurementError: No tensor of floats, or one of another shape.
        """
        if not isinstance(perturbed, Tensor) or not perturbed.is_floating_point():
            got = perturbed.dtype if isinstance(perturbed, Tensor) else type(perturbed).__name__
            raise MeasurementError(f"{self.attack.name}: expected adversarial images as a tensor of floats, got {got}")
        if perturbed.shape != original.shape:
            want, shape = list(original.shape), list(perturbed.shape)
            raise MeasurementError(f"{self.attack.name}: expected adversarial images of shape {want}, got {shape}")
        low, high = torch.aminmax(perturbed.detach())  # of a nan both are nan
        self._sound.append(("images", torch.stack([low, high]).double()))

    def logits(self, logits: Tensor, count: int) -> None:
        """Note whether logits are finite.

        Args:
            logits: [count, classes].
            count: How many images they are of.

        Raises:
            MeasurementError: They are of another shape.
        """
        if logits.dim() != 2 or len(logits) != count:
            got = list(logits.shape)
            raise MeasurementError(f"{self.attack.name}: expected logits of shape [{count}, classes], got {got}")
        low, high = torch.aminmax(logits.detach())
        self._sound.append(("logits", torch.stack([low, high]).double()))

    def settle(self) -> None:
        """Fetch what was noted.

        Raises:
            MeasurementError: Something is not finite, or not in [0, 1].
        """
        if not self._sound:
            return
        ranges = torch.stack([values for _, values in self._sound]).tolist()
        for (what, _), (low, high) in zip(self._sound, ranges, strict=True):
            got = f"{low:.6g} to {high:.6g}"
            if what == "images" and not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
                raise MeasurementError(f"{self.attack.name}: expected adversarial images in [0, 1], got {got}")
            if not (math.isfinite(low) and math.isfinite(high)):
                raise MeasurementError(f"{self.attack.name}: expected finite logits, got {got}")
        self._sound.clear()


class CleanLogits:
    """What a network says of clean images, computed once per filter and shared by all attacks.

    One for each set of weights: after a training step it would tell of the network that was.

    Args:
        network: The network that is measured.
        images: [N, C, H, W] uint8 in 0..255 or float in [0, 1], all of them.
        batch_size: Images classified at once.
    """

    def __init__(self, network: nn.Module, images: Tensor, batch_size: int) -> None:
        self.network = network
        self.images = images
        self.batch_size = batch_size
        self._logits: dict[Filter | None, Tensor] = {}

    def at(self, seen: Filter | None = None) -> Tensor:
        """The logits through a filter.

        Args:
            seen: As in `through_filter`.

        Returns:
            [N, classes] on the network's device.
        """
        seen = _effective(seen, self.images)
        if seen not in self._logits:
            behind = through_filter(self.network, seen)
            device = _device(self.network, self.images)
            with evaluating(self.network), torch.no_grad():
                parts = [behind(as_float(part.to(device))) for part in torch.split(self.images, self.batch_size)]
            self._logits[seen] = torch.cat(parts)
        return self._logits[seen]

    def of(self, places: Tensor) -> CleanLogits:
        """The same of some of the images: what is known of all is known of them.

        Args:
            places: [n] int64, which.
        """
        some = CleanLogits(self.network, self.images[places.to(self.images.device)], self.batch_size)
        some._logits = {seen: logits[places.to(logits.device)] for seen, logits in self._logits.items()}
        return some


def evaluate(
    network: nn.Module,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch_size: int,
    filters: Sequence[Filter | None] = (None,),
    adaptive: bool = False,
    index: Tensor | None = None,
    clean: CleanLogits | None = None,
    search: Network | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Filter | None, Tensor]:
    """Attacks every image, and says for every filter which ones are still classified correctly.

    The attack is generated once, against the unfiltered network, and what it made is classified behind every filter.
    With `adaptive` the attacker knows of it: for each filter it is generated against the network behind it.

    Args:
        network: Evaluated in evaluation mode, without gradients of its parameters; left as it was found.
        attack: The column.
        images: [N, C, H, W] uint8 in 0..255 or float in [0, 1].
        labels: [N] int64.
        seed: The trial's seed.
        batch_size: Images attacked at once; matters to the result only for attacks that are `batch_dependent`.
        filters: In front of the classifier; None: no filter.
        adaptive: Attack through the filter.
        index: [N] int64, the images' places in the data set; None: 0 .. N - 1.
        clean: Clean logits of this network and these images, to share them between attacks; None: only within this one.
        search: What attacks ask in place of `network`: nearly the same function, at less cost. What they find is judged
            by `network`, and an image on which it fools `search` alone is attacked again by asking `network`. None:
            they ask `network`.
        progress: To be told after each batch how many images are attacked, and of how many.

    Returns:
        For each filter [N] bool on the network's device: classified correctly.

    Raises:
        MeasurementError: The attack made something else than images in [0, 1], or a logit is not finite: neither may
            count as an answer.

    Source: Section 3.1.1.
    """
    clean = CleanLogits(network, images, batch_size) if clean is None else clean
    assert clean.network is network and clean.images.shape == images.shape
    wanted = list(dict.fromkeys(_effective(seen, images) for seen in filters))
    correct: dict[Filter | None, list[Tensor]] = {seen: [] for seen in wanted}
    checks = Checks(attack)
    attacked_and_judged = [(seen, [seen]) for seen in wanted] if adaptive else [(None, wanted)]
    with evaluating(network):
        for round_, (attacked, judged) in enumerate(attacked_and_judged):
            for part, original, perturbed, truth in _batches(
                network, attack, images, labels, seed, batch_size, attacked, index, clean, checks, search
            ):
                for seen in judged:
                    if perturbed is original:
                        logits = clean.at(seen)[part]
                    else:
                        with torch.no_grad():
                            logits = through_filter(network, seen)(perturbed)
                    checks.logits(logits, len(truth))
                    correct[seen].append(logits.argmax(dim=1) == truth)
                if progress is not None:
                    done = round_ * len(images) + min(part.stop, len(images))
                    progress(done, len(attacked_and_judged) * len(images))
    checks.settle()
    joined = {seen: torch.cat(parts) for seen, parts in correct.items()}
    return {seen: joined[_effective(seen, images)] for seen in filters}


def adversarial_examples(
    network: nn.Module,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch_size: int,
    index: Tensor | None = None,
    clean: CleanLogits | None = None,
) -> Tensor:
    """The attacked images themselves, for analyses of what attacks do; arguments as of `evaluate`, which judges these.

    Returns:
        [N, C, H, W] float in [0, 1] on the network's device.

    Raises:
        MeasurementError: The attack made something else.
    """
    checks = Checks(attack)
    clean = CleanLogits(network, images, batch_size) if clean is None else clean
    with evaluating(network):
        made = _batches(network, attack, images, labels, seed, batch_size, None, index, clean, checks)
        joined = torch.cat([perturbed for _, _, perturbed, _ in made])
    checks.settle()
    return joined


def _batches(
    network: nn.Module,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    seed: int,
    batch_size: int,
    seen: Filter | None,
    index: Tensor | None,
    clean: CleanLogits,
    checks: Checks,
    search: Network | None = None,
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Per batch: its place, the images, what the attack on the network behind a filter made of them, the labels."""
    device = _device(network, images)
    judge = through_filter(network, seen)
    ask = judge if search is None or not attack.uses_network else through_filter(search, seen)
    index = torch.arange(len(images)) if index is None else index
    assert len(images) == len(labels) == len(index)
    for begin in range(0, len(images), batch_size):
        part = slice(begin, begin + batch_size)
        original = as_float(images[part].to(device))
        truth = labels[part].to(device)
        places = index[part].to(device)
        logits = clean.at(seen)[part] if attack.uses_clean_logits else None
        perturbed = _perturbed(attack, checks, ask, original, truth, places, seed, logits)
        if ask is not judge and perturbed is not original:
            with torch.no_grad():
                alone = _nearly_fooled(ask(perturbed), truth) & (judge(perturbed).argmax(1) == truth)
            again = alone.nonzero().squeeze(1)
            if len(again):
                some = None if logits is None else logits[again]
                found = _perturbed(attack, checks, judge, original[again], truth[again], places[again], seed, some)
                perturbed = perturbed.index_copy(0, again, found.to(perturbed.dtype))
        yield part, original, perturbed, truth


def _nearly_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] bool: misclassified, or by so little right that the search, asked beside other images, may have had it wrong.

    An attack stops at what it has broken, and kernels for another number of images round otherwise.
    """
    own = logits.gather(1, labels[:, None])
    ahead = (own - logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)).squeeze(1)
    return (logits.argmax(1) != labels) | (ahead <= _CLOSE * logits.abs().amax(1))


def _perturbed(
    attack: Attack,
    checks: Checks,
    ask: Network,
    original: Tensor,
    truth: Tensor,
    places: Tensor,
    seed: int,
    clean_logits: Tensor | None,
) -> Tensor:
    """What an attack makes of a batch."""
    version = original._version
    perturbed = attack.perturb(ask, original, truth, index=places, seed=seed, clean_logits=clean_logits)
    if perturbed is not original:
        checks.examples(perturbed, original)
    elif original._version != version:  # it would count as an attack that changes nothing
        raise MeasurementError(
            f"{attack.name}: expected adversarial images in a tensor of their own, got them in "
            "the one handed in, changed in place"
        )
    return perturbed


def _effective(seen: Filter | None, images: Tensor) -> Filter | None:
    """None for the filter that keeps everything, so that nothing is computed twice for it."""
    if seen is None or (seen.kind == "lowpass" and seen.degree == images.shape[-2] == images.shape[-1]):
        return None
    return seen


def _device(network: nn.Module, images: Tensor) -> torch.device:
    parameter = next(network.parameters(), None)
    return images.device if parameter is None else parameter.device
