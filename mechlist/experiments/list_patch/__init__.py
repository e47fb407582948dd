"""Patching of lists."""
