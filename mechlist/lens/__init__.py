"""Reading a model from inside: what its residual stream says of the next token, and who wrote it there."""
