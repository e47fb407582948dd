"""Decoding through the Runner: sampling with a key/value cache, with changed attention heads where asked."""

from mechlist.decode.generation import Completion, generate
from mechlist.decode.heads import ClassMeans, HeadEdit, HeadMode
from mechlist.decode.sampling import Sampling

__all__ = ["ClassMeans", "Completion", "HeadEdit", "HeadMode", "Sampling", "generate"]
