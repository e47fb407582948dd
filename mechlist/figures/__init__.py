"""Figures as pure functions of results: arrays in, one plotly figure out."""

from mechlist.figures.agreement import agreement
from mechlist.figures.attention import attention_panel, attention_pattern
from mechlist.figures.bars import grouped_bars
from mechlist.figures.heads import head_heatmap, heads_panel
from mechlist.figures.intervals import interval_bars, interval_lines
from mechlist.figures.lines import position_lines
from mechlist.figures.positions import position_heatmap
from mechlist.figures.rows import bubble_rows, interval_rows
from mechlist.figures.style import DIVERGING, SEQUENTIAL, TEMPLATE, finish, plot_text, without_title
from mechlist.figures.tokens import token_labels

__all__ = [
    "DIVERGING",
    "SEQUENTIAL",
    "TEMPLATE",
    "agreement",
    "attention_panel",
    "attention_pattern",
    "bubble_rows",
    "finish",
    "grouped_bars",
    "head_heatmap",
    "heads_panel",
    "interval_bars",
    "interval_lines",
    "interval_rows",
    "plot_text",
    "position_heatmap",
    "position_lines",
    "token_labels",
    "without_title",
]
