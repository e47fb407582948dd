"""The engine of path patching."""
