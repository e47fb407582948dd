"""Decoding through the Runner: sampling with a key/value cache."""

from mechlist.decode.generation import Completion, generate
from mechlist.decode.sampling import Sampling

__all__ = ["Completion", "Sampling", "generate"]
