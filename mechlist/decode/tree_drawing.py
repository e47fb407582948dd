"""A token tree's compact view as the branches of a figure."""

import math
from collections.abc import Mapping

from mechlist.decode.tree import Tree
from mechlist.figures.word_tree import CUT_OFF, ENDED, Branch
from mechlist.text import number_of, visible


def tree_branches(tree: Tree, *, importance: Mapping[int, float] | None = None, above: int = 0) -> list[Branch]:
    """One branch a segment, the root first.

    Args:
        tree: to be drawn.
        importance: of branching nodes, for the hover boxes.
        above: branches that stand before these in the same figure.
    """
    told, out = importance or {}, []
    for segment in tree.segments():
        first, last = tree.nodes[segment.nodes[0]], tree.nodes[segment.nodes[-1]]
        mark = ENDED if last.is_finished else CUT_OFF if last.is_open else "↩" if not last.children else ""
        out.append(
            Branch(
                text="".join(tree.nodes[n].text for n in segment.nodes),
                parent=None if segment.parent is None else above + segment.parent,
                value=float(first.prob),
                weight=last.log_prob,
                hover=_hover(tree, segment.nodes, told.get(segment.nodes[-1])),
                mark=mark,
            )
        )
    return out


def _hover(tree: Tree, chain: tuple[int, ...], importance: float | None) -> str:
    first, last = tree.nodes[chain[0]], tree.nodes[chain[-1]]
    lines = (
        [] if first.parent is None else [f"probability {first.prob:.3f}, of the whole chain {_chain(tree, chain):.3f}"]
    )
    lines.append(f"{number_of(len(chain), 'tokens')}; from the prompt on {last.log_prob:.2f} nats")
    if last.is_finished:
        lines.append("the path ends here")
    elif last.is_open:
        lines.append("the path goes on beyond the tree")
    elif last.merged_into is not None:
        lines.append("the same text goes on in another branch")
    if importance is not None:
        lines.append(f"the choice behind it parts the continuations by {importance:.3f}")
    taken = {tree.nodes[child].token_id for child in last.children}
    others = [f"{visible(c.text)} {c.prob:.3f}" for c in last.candidates if c.token_id not in taken]
    return "\n".join([*lines, *(["not taken:", *others] if others else [])])


def _chain(tree: Tree, chain: tuple[int, ...]) -> float:
    parent = tree.nodes[chain[0]].parent
    above = 0.0 if parent is None else tree.nodes[parent].log_prob
    return math.exp(tree.nodes[chain[-1]].log_prob - above)
