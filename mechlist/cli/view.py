"""`mechlist view [DIR]`: runs, responses, trees, looks and patches in the browser."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from mechlist.cli.parse import parse
from mechlist.types import DType


@dataclass(frozen=True)
class ViewFlags:
    """Flags of `mechlist view`."""

    directory: tyro.conf.Positional[Path] = Path("runs")
    """Folder of runs: all that lie below it are shown."""
    model: str = ""
    """Model that writes, grows trees and patches: a Hugging Face name, a directory, or a built-in model; without, what
    was recorded is shown."""
    port: int = 8050
    """Port; 0 takes any that is free."""
    host: str = "127.0.0.1"
    """Address to listen at. Beyond this machine, the address that is printed holds a random token, which every request
    must have."""
    open: bool = True
    """Open the browser."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: DType = "float32"
    """Type of weights and activations."""
    memory: str = "4GiB"
    """Memory for activations of a batch, beyond the weights."""
    bos: bool | None = None
    """Begin prompts with the tokenizer's BOS token; by default where it has one."""


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C."""
    example = "Runs in the browser. Example: mechlist view runs --model list-tiny"
    flags = parse(ViewFlags, argv, prog="mechlist view", description=example)
    import webbrowser

    from mechlist.app.access import Access
    from mechlist.app.desk import Desk
    from mechlist.app.live import Live
    from mechlist.app.server import listen, make_app, make_web_server
    from mechlist.errors import InputError
    from mechlist.runner import Runner

    if not flags.directory.is_dir() and flags.directory != Path("runs"):
        raise InputError(f"{flags.directory} is no directory: give one that holds runs.")
    with listen(flags.host, flags.port) as opened:
        live = None
        if flags.model:
            loaded = Runner.load(
                flags.model, device=flags.device, dtype=flags.dtype, memory=flags.memory, bos=flags.bos
            )
            # Clicks need no progress bars.
            live = Live(Runner(loaded.language_model, memory=flags.memory, progress=False))
        access = Access.to(flags.host)
        server = make_web_server(make_app(Desk(flags.directory, live), access), opened)
        url = access.url(opened.getsockname()[1])
        print(f"mechlist view: {url} (Ctrl-C stops it)", flush=True)
        if flags.open:
            webbrowser.open(url)
        # Ctrl-C ends this, and closes the server.
        server.serve_forever()
    return 0
