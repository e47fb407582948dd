"""What each hidden dimension writes into the logits, and which dimensions are unlike the others."""
