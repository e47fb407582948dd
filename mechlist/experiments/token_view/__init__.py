"""One list, token by token."""
