"""Whether SAEs are right about the prompts at hand."""
