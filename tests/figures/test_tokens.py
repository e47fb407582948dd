from mechlist.figures import token_labels
from mechlist.figures.tokens import tokens_of_all


def test_equal_tokens_get_labels_of_their_own():
    assert token_labels([" a", " a", " a"]) == ["0 ·a", "1 ·a", "2 ·a"]


def test_labels_show_markup_literally():
    assert token_labels(["<b>x</b>", "&lt;"]) == ["0 &lt;b&gt;x&lt;/b&gt;", "1 &amp;lt;"]


def test_long_tokens_are_cut_before_they_are_escaped():
    assert token_labels(["<" * 9], longest=4) == ["0 &lt;&lt;&lt;…"]


def test_where_prompts_differ_the_first_one_s_token_is_marked():
    assert tokens_of_all([["The", " cat", ""], ["The", " dog", " ran"]]) == ["The", " cat•", " ran•"]
    assert tokens_of_all([["The", " cat"]]) == ["The", " cat"]
