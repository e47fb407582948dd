"""Where the tokens of a prompt lie."""
