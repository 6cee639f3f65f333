"""Attacks, and accuracy under them."""

from ablate.attacks.apgd import APGD, TargetedAPGD
from ablate.attacks.bands import BandPGD
from ablate.attacks.base import Attack, Network, attack_names, attack_source, build_attack, register_attack
from ablate.attacks.carlini_wagner import CarliniWagner, ExactCarliniWagner
from ablate.attacks.ensemble import Ensemble, EnsembleOutcome, evaluate_ensemble
from ablate.attacks.evaluation import Checks, CleanLogits, adversarial_examples, evaluate
from ablate.attacks.fab import TargetedFAB
from ablate.attacks.linf import BIM, FGSM, PGD, TPGD, ascend
from ablate.attacks.noise import GaussianNoise, Natural
from ablate.attacks.square import Square
from ablate.attacks.threats import Threat

__all__ = [
    "APGD",
    "BIM",
    "FGSM",
    "PGD",
    "TPGD",
    "Attack",
    "BandPGD",
    "CarliniWagner",
    "Checks",
    "CleanLogits",
    "Ensemble",
    "EnsembleOutcome",
    "ExactCarliniWagner",
    "GaussianNoise",
    "Natural",
    "Network",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "Threat",
    "adversarial_examples",
    "ascend",
    "attack_names",
    "attack_source",
    "build_attack",
    "evaluate",
    "evaluate_ensemble",
    "register_attack",
]
