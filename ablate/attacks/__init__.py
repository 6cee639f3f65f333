"""Attacks, and accuracy under them."""

from ablate.attacks.base import Attack, Network, attack_names, attack_source, build_attack, register_attack
from ablate.attacks.carlini_wagner import CarliniWagner, ExactCarliniWagner
from ablate.attacks.evaluation import Checks, CleanLogits, adversarial_examples, evaluate
from ablate.attacks.linf import BIM, FGSM, PGD, TPGD, ascend
from ablate.attacks.noise import GaussianNoise, Natural

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "TPGD",
    "Attack",
    "CarliniWagner",
    "Checks",
    "CleanLogits",
    "ExactCarliniWagner",
    "GaussianNoise",
    "Natural",
    "Network",
    "adversarial_examples",
    "ascend",
    "attack_names",
    "attack_source",
    "build_attack",
    "evaluate",
    "register_attack",
]
