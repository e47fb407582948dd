"""Drawn graphs: where nodes stand, and the figure."""

from mechlist.figures.graph.drawing import COLOURS, FIRST, WIDEST, GraphEdge, circuit_graph

__all__ = ["COLOURS", "FIRST", "WIDEST", "GraphEdge", "circuit_graph"]
