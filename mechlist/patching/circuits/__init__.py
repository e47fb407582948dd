"""Nodes and edges, and circuits made of them."""

from mechlist.patching.circuits.selection import SELECTIONS, above, greedy, random_circuit

__all__ = ["SELECTIONS", "above", "greedy", "random_circuit"]
