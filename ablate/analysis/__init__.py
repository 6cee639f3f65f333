"""Fourier and similarity analyses: pure functions of tensors, and the named ones that figures are drawn from."""

from ablate.analysis import corruptions, examples, gradients, heat_map, kernels  # noqa: F401 (they register themselves)
