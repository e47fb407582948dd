"""The interactive app: browse runs, click through responses and token trees, look, patch."""
