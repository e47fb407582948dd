"""What a model expects after every prefix of a prompt."""
