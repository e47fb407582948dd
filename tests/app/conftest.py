"""Odd texts, trees and records by hand, and the built-in model that writes."""

import math
from collections.abc import Callable

import pytest

from mechlist.app.live import Live
from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.decode.tree import Candidate, TokenPath, Tree, TreeConfig, grow_tree
from mechlist.runner import Runner

ODD = (
    "<script>window.ran=1</script>",
    '"><img src=x onerror=window.ran=1>',
    "{{7*7}}",
    "\0",
    "\u202eabc",
    "\U0001f600",
    "\ud83d",
    "\ufffd",
    "'",
    "\x1b[31m",
    "",
)
"""Token texts that must show as themselves, and run nowhere."""


@pytest.fixture(scope="session")
def odd() -> tuple[str, ...]:
    return ODD


def odd_expand(paths: list[TokenPath]) -> list[list[Candidate]]:
    """The odd texts behind every path, the first the most probable."""
    share = 1 / sum(1 / (i + 1) for i in range(len(ODD)))
    return [[Candidate(i, text, share / (i + 1)) for i, text in enumerate(ODD)] for _ in paths]


@pytest.fixture(scope="session")
def odd_tree() -> Tree:
    config = TreeConfig(max_depth=2, min_branch_threshold=0.0, max_branch_threshold=0.01)
    return grow_tree(odd_expand, config, prompt="<i>\u2028")


@pytest.fixture(scope="session")
def odd_record() -> Record:
    others = tuple(Alternative(text, math.log(0.05), i) for i, text in enumerate(ODD))
    return Record("<b>&\0", "".join(ODD), tuple(RecordedToken(t, math.log(0.05), others, i) for i, t in enumerate(ODD)))


@pytest.fixture(scope="session")
def wide_tree() -> Callable[[int], Tree]:
    """A tree of so many nodes, three branches at every one."""

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        return [[Candidate(i, f" w{len(path)}{'abc'[i]}", (0.5, 0.3, 0.2)[i]) for i in range(3)] for path in paths]

    def tree(nodes: int) -> Tree:
        config = TreeConfig(max_nodes=nodes, min_branch_threshold=0.1, max_branch_threshold=0.1, max_completed_paths=9)
        return grow_tree(expand, config, prompt="p")

    return tree


@pytest.fixture(scope="session")
def live() -> Live:
    return Live(Runner.load("list-tiny", device="cpu", progress=False))
