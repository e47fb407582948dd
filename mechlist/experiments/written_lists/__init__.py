"""Lists that the model did not write."""
