"""Responses and token trees that a reader clicks through without a script: every token and branch opens by itself."""

import math

from mechlist.decode.records import Record, RecordedToken
from mechlist.decode.tree import Tree
from mechlist.decode.tree_drawing import tree_branches
from mechlist.figures.token_text import confidence_colour
from mechlist.report.text import escape
from mechlist.text import number_of, shortened, visible

MOST_TOKENS = 2000
"""Of a response that are shown."""
MOST_CHAINS = 1500
"""Chains of a tree that are shown, the most probable: more would make the page slow."""
OPEN_DEPTH = 3
"""Branchings that are open at first."""
LONGEST = 160
"""Letters of a chain; its box has all."""


def exhibit(value: Record | Tree, title: str) -> str:
    """A response or a tree as HTML that is folded away at first."""
    record = isinstance(value, Record)
    told = "click a token for what else might have come" if record else "click a chain to close or open what follows it"
    body = _response(value) if isinstance(value, Record) else _tree(value)
    summary = f"<summary>Click through {escape(title)}: {told}</summary>"
    prompt = f'<p class="subtitle">Behind “{escape(shortened(visible(value.prompt), 300))}”</p>'
    return f'<details class="exhibit">\n{summary}\n{prompt}\n{body}\n</details>'


def token_lines(token: RecordedToken, *, alternatives: bool = True) -> list[str]:
    """What is known of a token in plain lines: its probability, rank, entropy, and what else might have come."""
    lines = [f"“{visible(token.token)}” had {share(token.log_prob)} ({token.log_prob:.2f} nats)"]
    lines += [f"rank {token.rank + 1} of the vocabulary"] if token.rank is not None else []
    lines += [f"entropy {token.entropy:.3f} nats"] if token.entropy is not None else []
    others = [f"“{visible(a.token)}” {share(a.log_prob)}" for a in token.alternatives if alternatives]
    return [*lines, *(["most probable here:", *others] if others else [])]


def share(log_prob: float | int) -> str:
    """A probability for a label: per cent, or in powers of ten where that would hide it."""
    prob = math.exp(log_prob)
    return f"{prob:.1%}" if prob >= 5e-4 or not prob else f"{prob:.1e}"


def _response(record: Record) -> str:
    shown = record.tokens[:MOST_TOKENS]
    parts = [_token(token) for token in shown]
    rest = len(record.tokens) - len(shown)
    more = f"<p>{number_of(rest, 'more tokens')} are in the run's tables.</p>" if rest else ""
    return f'<div class="response">\n{"".join(parts)}\n</div>{more}'


def _token(token: RecordedToken) -> str:
    lines = token_lines(token)
    text, box = escape(visible(token.token) or "∅"), "".join(f"<li>{escape(line)}</li>" for line in lines)
    colour = confidence_colour(math.exp(token.log_prob))
    hover = escape("\n".join(lines))
    after = "<br>" if token.token.endswith("\n") else ""
    return (
        f'<details class="token" name="token"><summary style="background:{colour}" title="{hover}">{text}</summary>'
        f"<ul>{box}</ul></details>{after}"
    )


def _tree(tree: Tree) -> str:
    """Nested chains, without recursion: a tree may be deeper than Python's stack."""
    segments, branches = tree.segments(), tree_branches(tree)
    kept = set(sorted(range(len(segments)), key=lambda n: (-branches[n].weight, n))[:MOST_CHAINS])
    for number in sorted(kept, reverse=True):
        parent = segments[number].parent
        while parent is not None and parent not in kept:
            kept.add(parent)
            parent = segments[parent].parent
    parts: list[str] = []
    waiting: list[tuple[int, int] | str] = [(0, 0)]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, str):
            parts.append(entry)
            continue
        number, depth = entry
        below = [child for child in segments[number].children if child in kept]
        label = _label(branches[number].text, branches[number].value, branches[number].hover, branches[number].mark)
        if not below:
            parts.append(f'<li class="leaf">{label}</li>')
            continue
        is_open = " open" if depth < OPEN_DEPTH else ""
        parts.append(f"<li><details{is_open}><summary>{label}</summary><ul>")
        waiting.append("</ul></details></li>")
        waiting += [(child, depth + 1) for child in reversed(below)]
    left = len(segments) - len(kept)
    more = f"<p>Left out: the {number_of(left, 'least probable chains')}.</p>" if left > 1 else ""
    return f'<ul class="tree">{"".join(parts)}</ul>{more}'


def _label(text: str, prob: float | int, hover: str, mark: str) -> str:
    shown = escape(shortened(visible(text) or "∅", LONGEST))
    colour = confidence_colour(prob)
    end = f" {escape(mark)}" if mark else ""
    return f'<span class="chain" style="background:{colour}" title="{escape(hover)}">{shown}</span> {prob:.3f}{end}'
