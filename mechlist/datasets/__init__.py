"""Prompts: token sequences made for an experiment."""
