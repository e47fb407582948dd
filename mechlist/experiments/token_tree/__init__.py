"""The tree of a prompt's likely continuations."""
