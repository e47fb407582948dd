"""Heads that tell lists apart."""
