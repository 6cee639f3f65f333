"""Fourier and similarity analyses: pure functions of tensors."""
