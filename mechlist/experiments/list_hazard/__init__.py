"""Ending as an event."""
