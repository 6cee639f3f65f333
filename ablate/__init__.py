"""Ray-distributed ablations of adversarial training."""
