"""What a built-in model is, from its card."""

from mechlist.models.sources.source import BUILTIN_ROOT, builtin_models


def about(name: str) -> str:
    """The first paragraph of a built-in model's card, which says how large it is and what it was trained on.

    Nothing for a model that is not built in.
    """
    if name not in builtin_models():
        return ""
    title, paragraph = (BUILTIN_ROOT / name / "README.md").read_text(encoding="utf-8").split("\n\n")[:2]
    return f"{title.removeprefix('# ')}: {' '.join(paragraph.split()).replace('`', '')}"
