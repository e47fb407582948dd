"""Who may ask the app: this machine; from elsewhere, whoever has the address with its random token."""

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """What a request must bring."""

    host: str
    """Address that the app listens at."""
    token: str = ""
    """First part of every path; none where only this machine can ask."""

    @classmethod
    def to(cls, host: str) -> "Access":
        """Access to an address: beyond this machine it takes a token that is drawn now."""
        return cls(host, "" if is_loopback(host) else secrets.token_urlsafe(24))

    @property
    def prefix(self) -> str:
        """What every path begins with."""
        return f"/{self.token}/" if self.token else "/"

    def url(self, port: int) -> str:
        """Address to open, with the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}{self.prefix}"

    def refusal(self, path: str, host: str, origin: str = "") -> str:
        """Why a request is refused, in a sentence; empty where it is let in.

        Args:
            path: that was asked for.
            host: header Host. On loopback it must name this machine: another name is a page elsewhere whose name was
                made to lead here (DNS rebinding).
            origin: header Origin, if there is one. It must be the app's own.
        """
        if self.token:
            given = path.split("/")[1] if path.startswith("/") else ""
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                return "The address lacks the access token: open the one that mechlist view printed."
        elif _name(host) not in (*LOOPBACK, self.host):
            return "The app answers to this machine's own address only, such as 127.0.0.1."
        if origin and urlsplit(origin).netloc != host:
            return "The app answers to its own pages only."
        return ""


def _name(host: str) -> str:
    """The name in a header Host, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
