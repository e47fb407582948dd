"""The shown chains of a tree as elements of a drawing (dash-cytoscape); positions are those of the report's trees."""

from typing import Any

from mechlist.app.tree_view import TreeSheet, TreeView, way_to
from mechlist.figures.style import INK
from mechlist.figures.token_text import LETTER, LINE, confidence_colour
from mechlist.figures.word_tree import tree_places
from mechlist.text import visible

LONGEST = 46
"""Letters of a chain that are shown."""
_SPACE = 1.25
"""Lines between chains."""

STYLE: list[dict[str, Any]] = [
    {
        "selector": "node",
        "style": {
            "shape": "round-rectangle",
            "label": "data(label)",
            "width": "data(width)",
            "height": LINE - 2,
            "background-color": "data(colour)",
            "border-width": 1,
            "border-color": "#b8bcc4",
            "color": INK,
            "font-family": "monospace",
            "font-size": 12,
            "text-valign": "center",
        },
    },
    {
        "selector": "edge",
        "style": {
            "width": 1,
            "line-color": "#b8bcc4",
            "curve-style": "straight",
            "source-endpoint": "90deg",
            "target-endpoint": "270deg",
        },
    },
    {"selector": ".closed", "style": {"border-width": 2, "border-style": "dashed", "border-color": "#5b6370"}},
    {"selector": "node.way", "style": {"border-width": 2, "border-color": "#2a5f9e"}},
    {"selector": "edge.way", "style": {"width": 3, "line-color": "#2a5f9e"}},
    {"selector": ".selected", "style": {"border-width": 4, "border-color": "#2a5f9e"}},
]


def tree_elements(sheet: TreeSheet, view: TreeView) -> list[dict[str, Any]]:
    """Nodes and edges; classes: `closed` (children are hidden), `way` (leads to the selected one), `selected`."""
    shown = view.shown(sheet)
    places, way, there = tree_places(sheet.branches, shown, LONGEST), set(way_to(sheet, view.selected)), set(shown)
    out: list[dict[str, Any]] = []
    for number in shown:
        branch, place = sheet.branches[number], places[number]
        hidden = sum(child not in there for child in sheet.segments[number].children)
        label = place.label + (f" (+{hidden})" if hidden else "") + (f" {branch.mark}" if branch.mark else "")
        width = (len(label) + 1) * LETTER
        kinds = {"closed": bool(hidden), "way": number in way, "selected": number == view.selected}
        out.append(
            {
                "data": {
                    "id": str(number),
                    "label": label,
                    "width": width,
                    "colour": confidence_colour(branch.value),
                    "hover": f"{visible(branch.text)}\n{branch.hover}",
                },
                "position": {"x": place.left * LETTER + width / 2, "y": place.line * LINE * _SPACE},
                "classes": " ".join(name for name, holds in kinds.items() if holds),
            }
        )
        if branch.parent is not None:
            ends = {"id": f"{branch.parent}-{number}", "source": str(branch.parent), "target": str(number)}
            out.append({"data": ends, "classes": "way" if number in way and branch.parent in way else ""})
    return out
