"""Answers that begin with a text or follow a grammar."""
