"""Which tokens of a prompt drive the next one."""
