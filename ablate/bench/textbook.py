"""The loops that people write today, to be timed against: eager, float32, one kernel after the other.

Where torchattacks is installed its attacks are used, else the same attacks written out as its own code has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IEEE = "IEEE"
"""Of a rival whose convolutions on a GPU round as float32 does: torch's own default is TF32."""

AttackFunction = Callable[[Tensor, Tensor], Tensor]
"""Images [N, C, H, W] in [0, 1] and labels [N] to adversarial images."""

EPS, STEP = 8 / 255, 2 / 255


def torchattacks_module() -> Any:
    """torchattacks where it is installed, else None."""
    try:
        import torchattacks
    except ImportError:
        return None
    return torchattacks


def written_out_pgd(network: nn.Module, steps: int, *, random_start: bool = True) -> AttackFunction:
    """PGD as tutorials write it: project the difference, then clamp the sum.

    Args:
        network: Attacked in evaluation mode.
        steps: Iterations.
        random_start: From a uniform point of the ball, else from the image (BIM).

    Source: arXiv 1706.06083.
    """

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        training = network.training
        network.eval()
        adversarial = images.clone().detach()
        if random_start:
            adversarial = torch.clamp(adversarial + torch.empty_like(adversarial).uniform_(-EPS, EPS), 0, 1)
        for _ in range(steps):
            adversarial.requires_grad = True
            loss = F.cross_entropy(network(adversarial), labels)
            gradient = torch.autograd.grad(loss, adversarial)[0]
            adversarial = adversarial.detach() + STEP * gradient.sign()
            difference = torch.clamp(adversarial - images, min=-EPS, max=EPS)
            adversarial = torch.clamp(images + difference, min=0, max=1).detach()
        network.train(training)
        return adversarial

    return attack


def settings(whose: str, work: Callable[[], Any], device: torch.device) -> dict[str, Callable[[], Any]]:
    """A rival under torch's own settings, as a script of today runs it, and, on a GPU, in IEEE float32 beside it.

    Args:
        whose: Its name.
        work: What is timed.
        device: A CPU has no TF32, so both are one there.

    Returns:
        Name -> the work with these settings around it.
    """

    def around(tf32: bool) -> Callable[[], Any]:
        def with_settings() -> Any:
            before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = tf32
            try:
                return work()
            finally:
                torch.backends.cudnn.allow_tf32 = before

        return with_settings

    # torch.backends.cudnn.allow_tf32 is True, and torch.backends.cuda.matmul.allow_tf32 False, where nobody sets them.
    if device.type == "cpu":
        return {whose: around(True)}
    return {whose: around(True), f"{whose} {IEEE}": around(False)}


def pgds() -> dict[str, Callable[[nn.Module, int], AttackFunction]]:
    """PGD of a training step, by whose it is: torchattacks' where it is installed, and the written out one.

    Returns:
        Name -> what makes the attack of a network and a number of steps.
    """
    library = torchattacks_module()
    if library is None:
        return {"written out": written_out_pgd}
    return {
        "torchattacks": lambda network, steps: library.PGD(network, eps=EPS, alpha=STEP, steps=steps),
        "written out": written_out_pgd,
    }


def columns(network: nn.Module) -> dict[str, AttackFunction]:
    """The attacks of the seven columns, by column: torchattacks', or those that can be written out in a few lines.

    Args:
        network: Attacked.

    Returns:
        Column -> attack; without torchattacks only `pgd20` and `bim20`.
    """
    library = torchattacks_module()
    if library is None:
        return {
            "pgd20": written_out_pgd(network, 20),
            "bim20": written_out_pgd(network, 20, random_start=False),
        }
    return {
        "natural": lambda images, labels: images,
        "gn": library.GN(network, std=0.1),
        "fgsm": library.FGSM(network, eps=EPS),
        "pgd20": library.PGD(network, eps=EPS, alpha=STEP, steps=20),
        "bim20": library.BIM(network, eps=EPS, alpha=STEP, steps=20),
        "tpgd20": library.TPGD(network, eps=EPS, alpha=STEP, steps=20),
        "cw20": library.CW(network, c=1, kappa=0, steps=20, lr=0.01),
    }


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, attack: AttackFunction) -> AttackFunction:
    """A step of adversarial training: attack, cross-entropy, backward, update.

    Args:
        network: Trained in place.
        optimizer: Of its parameters.
        attack: From `pgd`.

    Returns:
        What makes one step of a batch; it returns the loss.
    """

    def step(images: Tensor, labels: Tensor) -> Tensor:
        network.train()
        adversarial = attack(images, labels)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(adversarial), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """How many a network still gets right.

    Args:
        network: In evaluation mode.
        images: [N, C, H, W] in [0, 1].
        labels: [N] int64.

    Returns:
        A count, on the device.
    """
    logits: Tensor = network(images)
    return (logits.argmax(dim=1) == labels).sum()
