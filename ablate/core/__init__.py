"""What stands below everything: errors, registries, digests, randomness, text."""
