"""Induction heads."""
