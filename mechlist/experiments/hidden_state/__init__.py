"""How the final hidden state and its logits are distributed."""
