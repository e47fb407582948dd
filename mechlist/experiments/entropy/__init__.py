"""Entropy along lists."""
