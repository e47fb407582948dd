"""Plain text into HTML: escaped, encodable, and with anchors."""

import html
import re
import unicodedata

_UNENCODABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def escape(text: str) -> str:
    r"""Plain text as HTML; what neither HTML nor UTF-8 can hold is written `\xNN` or `\uNNNN`."""
    return html.escape(_UNENCODABLE.sub(_code, text.replace("\r\n", "\n")))


def _code(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def paragraphs(text: str, *, name: str = "") -> str:
    """Plain text as paragraphs, separated by blank lines, of the CSS class `name` where one is given."""
    opening = f'<p class="{name}">' if name else "<p>"
    parts = (part.strip() for part in re.split(r"\n\s*\n", text))
    return "\n".join(f"{opening}{escape(part)}</p>" for part in parts if part)


def bullets(lines: tuple[str, ...], *, name: str = "findings") -> str:
    """Plain sentences as a list of the CSS class `name`; nothing for no sentences."""
    if not lines:
        return ""
    return "\n".join([f'<ul class="{name}">', *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"])


class Anchors:
    """Ids of one page: readable, in ASCII, each given out once."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def new(self, *parts: str) -> str:
        """An id made of the parts, with a number behind it where it is taken."""
        plain = unicodedata.normalize("NFKD", "-".join(parts)).encode("ascii", "ignore").decode()
        base = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60] or "part"
        anchor, count = base, 1
        while anchor in self._used:
            count += 1
            anchor = f"{base}-{count}"
        self._used.add(anchor)
        return anchor
