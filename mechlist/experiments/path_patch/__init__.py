"""Path patching."""
