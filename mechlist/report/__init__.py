"""Reports: text, figures and tables in, one self-contained HTML page out."""

from mechlist.report.html import figure_page, render
from mechlist.report.model import Report, Section

__all__ = ["Report", "Section", "figure_page", "render"]
