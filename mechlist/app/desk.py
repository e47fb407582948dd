"""What every page of the app works with."""

from dataclasses import dataclass, field
from pathlib import Path

from mechlist.app.documents import Shelf
from mechlist.app.live import Live
from mechlist.errors import InputError


@dataclass(frozen=True)
class Desk:
    """A folder of runs, a model if there is one, and what is open."""

    folder: Path
    live: Live | None = None
    shelf: Shelf = field(default_factory=Shelf)

    def model(self) -> Live:
        """The model.

        Raises:
            InputError: there is none.
        """
        if self.live is None:
            raise InputError("This needs a model: start the app with --model, such as mechlist view --model list-tiny.")
        return self.live
