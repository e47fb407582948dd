"""Endings that sampling made."""
