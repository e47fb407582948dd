"""Responses and trees that open by themselves: what is in them, that nothing breaks out, and deep ones."""

import math
import re

from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.decode.tree import Candidate, Tree, TreeConfig, grow_tree
from mechlist.report import Report, Section, render
from mechlist.report import exhibits as exhibits_module
from mechlist.report.exhibits import MOST_CHAINS, exhibit, share

ODD = {
    "<script>alert(1)</script>": "&lt;script&gt;alert(1)&lt;/script&gt;",
    '"><b>': "&quot;&gt;&lt;b&gt;",
    "\0": r"\x00",
    "\u202eabc": r"\u202eabc",
    "\ud83d": r"\ud83d",
    "\U0001f600": "\U0001f600",
    "": "∅",
}
"""Token texts, and how a page must show them."""


def odd_record() -> Record:
    others = tuple(Alternative(text, math.log(0.1)) for text in ODD)
    return Record("</details>", "".join(ODD), tuple(RecordedToken(text, math.log(0.1), others) for text in ODD))


def odd_tree(depth: int = 1) -> Tree:
    def expand(paths: list[tuple[int, ...]]) -> list[list[Candidate]]:
        return [[Candidate(i, text, 1 / len(ODD)) for i, text in enumerate(ODD)] for _ in paths]

    config = TreeConfig(max_depth=depth, min_branch_threshold=0.0, max_branch_threshold=0.01)
    return grow_tree(expand, config, prompt="</ul>")


def two_ways(paths: list[tuple[int, ...]]) -> list[list[Candidate]]:
    return [[Candidate(0, "a", 0.6), Candidate(1, "b", 0.4)] for _ in paths]


def test_every_token_opens_to_what_else_might_have_come():
    page = exhibit(odd_record(), "text 1")
    assert page.count('<details class="token"') == len(ODD)
    assert r"“\x00” had 10.0% (-2.30 nats)" in page
    assert page.count(r"<li>“\u202eabc” 10.0%</li>") == len(ODD)
    assert "Click through text 1: click a token" in page


def test_every_branching_opens_and_what_comes_first_is_open():
    tree = odd_tree(depth=2)
    page = exhibit(tree, "the tree")
    segments = tree.segments()
    assert page.count("<li") == len(segments)
    assert page.count("<details open>") == sum(bool(segment.children) for segment in segments)
    assert "Left out" not in page


def test_no_text_breaks_out_and_the_page_encodes():
    exhibits = {"<a>": odd_record(), "tree": odd_tree()}
    page = render(Report(title="t", sections=(Section(title="s", exhibits=exhibits),)))
    page.encode()
    for text in ODD.values():
        assert text in page
    assert "<script>alert" not in page
    body = page[page.index("<body>") :]
    assert "<b>" not in body
    for tag in ("details", "ul", "li", "span", "summary"):
        assert len(re.findall(rf"<{tag}[ >]", body)) == body.count(f"</{tag}>")


def test_deep_and_large_trees_are_cut_to_what_is_likely():
    config = TreeConfig(max_nodes=3500, max_branch_threshold=0.3, max_completed_paths=1, order="best")
    page = exhibit(grow_tree(two_ways, config), "the tree")
    assert MOST_CHAINS <= page.count("<li") < 2 * MOST_CHAINS
    assert "least probable chains." in page


def test_branches_may_stand_below_each_other_at_any_depth(monkeypatch):
    monkeypatch.setattr(exhibits_module, "MOST_CHAINS", 9999)

    def comb(paths: list[tuple[int, ...]]) -> list[list[Candidate]]:
        return [two_ways([path])[0] if 1 not in path else [] for path in paths]

    deep = exhibit(grow_tree(comb, TreeConfig(max_depth=1200, max_nodes=2400, max_branch_threshold=0.3)), "deep")
    assert deep.count("<details") > 1100
    assert deep.count("</details>") == deep.count("<details")


def test_shares_are_never_rounded_to_nothing():
    assert [share(math.log(p)) for p in (1.0, 0.25, 0.001, 0.0001)] == ["100.0%", "25.0%", "0.1%", "1.0e-04"]
    assert share(-math.inf) == "0.0%"
