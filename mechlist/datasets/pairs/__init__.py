"""Pairs of prompts that differ in one thing."""
