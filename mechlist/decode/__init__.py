"""Decoding through the Runner: sampling with a key/value cache, with changed activations where asked."""

from mechlist.decode.generation import Completion, generate
from mechlist.decode.heads import ClassMeans, Edit, HeadEdit, HeadMode, HookEdit
from mechlist.decode.sampling import Sampling

__all__ = ["ClassMeans", "Completion", "Edit", "HeadEdit", "HeadMode", "HookEdit", "Sampling", "generate"]
