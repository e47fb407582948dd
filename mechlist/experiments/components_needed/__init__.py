"""How many components of the final hidden state the answer needs, and in which basis."""
