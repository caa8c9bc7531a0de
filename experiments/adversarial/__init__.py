"""Adversarial generation: two networks in turns, and how well the modes of the data are met."""
