"""The engine of attribution patching: every cell from one backward pass."""
