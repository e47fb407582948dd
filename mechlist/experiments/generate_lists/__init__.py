"""Lists that a chat model writes."""
