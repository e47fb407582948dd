"""Where the nodes of a layered graph stand: floor by floor, in the order in which lines cross least."""

from collections.abc import Container, Mapping, Sequence

Place = tuple[float, float]
"""Column and floor."""
SWEEPS = 4
"""Up and down through all floors; more change little (Sugiyama et al. 1981)."""
WIDEST = 7
"""Columns of a floor: more nodes stand closer."""
CLOSE = 0.75
"""Columns between neighbours below which every other one stands higher, so that names do not overlap."""
RAISED = 0.42
"""Of a floor, that it does."""

BENDS = (0.0, 0.3, -0.3, 0.6, -0.6, 0.9, -0.9, 1.3, -1.3, 1.8, -1.8)
"""Columns by which the middle of a line may be moved aside, the first that hides nothing."""
NEAR = 0.36
"""Columns from a node's middle within which a line runs behind it."""


def places_of(
    floors: Sequence[Sequence[str]], links: Sequence[tuple[str, str]], beside: Container[str] = ()
) -> dict[str, Place]:
    """Column and floor of each node, in the order of the floors; columns are centred at 0.

    Args:
        floors: names of the nodes of each, from the lowest up; none empty.
        links: pairs of nodes.
        beside: nodes that stand in a column of their own at the right.
    """
    inner = [[name for name in floor if name not in beside] for floor in floors]
    ordered = _ordered(inner, links)
    columns = {name: x for floor in ordered for name, x in zip(floor, _spread(len(floor)), strict=True)}
    right = max(columns.values(), default=0.0) + 1.2
    out: dict[str, Place] = {}
    for height, (floor, names) in enumerate(zip(floors, ordered, strict=True)):
        close = len(names) > 1 and columns[names[1]] - columns[names[0]] < CLOSE
        raised = set(names[1::2]) if close else set()
        for name in floor:
            out[name] = (columns.get(name, right), height + RAISED * (name in raised))
    return out


def _spread(count: int) -> list[float]:
    """Columns of so many nodes, evenly around the middle."""
    step = min(1.0, WIDEST / max(1, count - 1))
    return [(n - (count - 1) / 2) * step for n in range(count)]


def _ordered(floors: Sequence[Sequence[str]], links: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Every floor's nodes by the mean column of those that they are linked with, up and down again and again."""
    near: dict[str, list[str]] = {name: [] for floor in floors for name in floor}
    for a, b in links:
        if a in near and b in near:
            near[a].append(b)
            near[b].append(a)
    ordered = [list(floor) for floor in floors]
    at = {name: x for floor in ordered for name, x in zip(floor, _spread(len(floor)), strict=True)}
    for sweep in range(SWEEPS):
        for floor in ordered if sweep % 2 == 0 else reversed(ordered):
            middle = {name: sum(at[other] for other in near[name]) / max(1, len(near[name])) for name in floor}
            floor.sort(key=lambda name: middle[name] if near[name] else at[name])
            at |= dict(zip(floor, _spread(len(floor)), strict=True))
    return ordered


def middle(places: Mapping[str, Place], lower: str, upper: str, aside: float = 0.0) -> Place:
    """The middle of a curve between two nodes, so far to the side that it runs behind as few others as can be.

    Args:
        places: of all nodes.
        lower: where the curve begins.
        upper: where it ends.
        aside: columns by which it is moved in any case.
    """
    (x0, y0), (x1, y1) = places[lower], places[upper]
    between = [(x, (y - y0) / (y1 - y0)) for x, y in places.values() if y0 < y < y1]
    straight = (x0 + x1) / 2 + aside

    def hidden(bend: float) -> int:
        """Nodes on the parabola through both ends and the middle."""
        top = straight + bend
        at = [(x0 * (1 - t) * (1 - 2 * t) + top * 4 * t * (1 - t) - x1 * t * (1 - 2 * t), x) for x, t in between]
        return sum(abs(curve - x) < NEAR for curve, x in at)

    return straight + min(BENDS, key=lambda bend: (hidden(bend), abs(bend))), (y0 + y1) / 2
