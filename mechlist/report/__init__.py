"""Reports: text, figures and tables in, one self-contained HTML page out."""

from mechlist.report.html import figure_page, render
from mechlist.report.model import Report, Section, Sentence

__all__ = ["Report", "Section", "Sentence", "figure_page", "render"]
