"""The pairs of lists that patching takes, under the name by which its experiments import them."""

from mechlist.datasets.lists.role_positions import named_roles
from mechlist.experiments.list_experiment import At, ListPairs, Side, list_pairs

__all__ = ["At", "ListPairs", "Side", "list_pairs", "named_roles"]
