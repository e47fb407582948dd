"""Overlap between topics of the SAE features that a metric is attributed to."""
