"""Statistics of recorded lists."""
