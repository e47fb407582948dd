"""Which layers are worth an SAE."""
