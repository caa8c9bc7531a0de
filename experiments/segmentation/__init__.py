"""Segmentation networks: how they are trained, measured and judged."""
