"""Every head read off the weights."""
