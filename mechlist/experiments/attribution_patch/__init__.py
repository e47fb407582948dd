"""Attribution patching."""
