"""Ways of choosing tokens, side by side."""
