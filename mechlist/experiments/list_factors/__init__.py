"""What each factor of a text does to the decision to end a list."""
