"""The engine of exact patching: every cell in one batch."""
