"""Log-probabilities of texts, token by token."""
