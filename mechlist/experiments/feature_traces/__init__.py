"""Chosen features of SAEs along every list."""
