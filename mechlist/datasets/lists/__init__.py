"""Lists: prompts that ask for them, their form in tokens, roles of positions, recorded files."""
