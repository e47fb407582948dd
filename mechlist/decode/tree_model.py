"""Trees grown from a model: paths that wait go through it together, and share keys and values of what they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechlist.decode.tree import BATCH, Candidate, Expand, TokenPath, Tree, TreeConfig, grow_tree
from mechlist.errors import InputError
from mechlist.models.decoding import Decoder
from mechlist.runner import Runner
from mechlist.runner.progress import Bar
from mechlist.types import format_bytes

ROOM = 32
"""Tokens by which a reader's cache is made longer than what it holds."""


def grow_model_tree(
    runner: Runner, prompt: Sequence[int], config: TreeConfig, *, text: str | None = None, batch: int = BATCH
) -> Tree:
    """The tree of likely continuations of a prompt.

    Args:
        runner: with the model; interventions that are in place act on every path, which then takes whole passes.
        prompt: token ids.
        config: how the tree grows.
        text: of the root; by default that of the prompt's tokens.
        batch: paths that go through the model together, at most; the tree does not depend on it beyond float rounding.
    """
    text = "".join(runner.token_texts(list(prompt))) if text is None else text
    expand = model_expand(runner, prompt, config)
    # How large a tree gets is known where it is limited: only then is there an estimate to show.
    with Bar("Growing the tree", config.max_nodes or 1, runner.progress and config.max_nodes is not None) as bar:

        def counted(paths: list[TokenPath]) -> list[list[Candidate]]:
            bar.advance(len(paths))
            return expand(paths)

        return grow_tree(counted, config, prompt=text, batch=batch)


def model_expand(runner: Runner, prompt: Sequence[int], config: TreeConfig) -> Expand:
    """Next-token candidates from a model; of equally probable tokens the lowest id comes first.

    A path that fills the model's context has no candidates.
    """
    reader = PathReader(runner, prompt)
    texts: dict[int, str] = {}
    least = min(config.candidate_threshold, config.threshold(1))

    def text_of(token: int) -> str:
        if token not in texts:
            (texts[token],) = runner.token_texts([token])
        return texts[token]

    def expand(paths: list[TokenPath]) -> list[list[Candidate]]:
        fits = [i for i, path in enumerate(paths) if reader.fits(path)]
        out: list[list[Candidate]] = [[] for _ in paths]
        for members, log_probs in reader.read([paths[i] for i in fits]):
            for member, row in zip(members, log_probs, strict=True):
                found = likeliest(row, least)
                out[fits[member]] = [Candidate(token, text_of(token), prob) for token, prob in found]
        return out

    return expand


def likeliest(log_probs: Float[Tensor, " vocab"], least: float) -> list[tuple[int, float]]:
    """Tokens more probable than `least` with their probabilities, the most probable first; one at least."""
    probs = log_probs.double().exp()
    tokens = (probs > least).nonzero()[:, 0]
    if not len(tokens):
        tokens = probs.argmax()[None]
    order = probs[tokens].argsort(descending=True, stable=True)
    return list(zip(tokens[order].tolist(), probs[tokens[order]].tolist(), strict=True))


@dataclass
class _Level:
    """A reader whose rows are paths of one length."""

    decoder: Decoder
    row: dict[TokenPath, int]
    seen: int
    capacity: int


class PathReader:
    """What a model says after each of several paths behind one prompt.

    A path is read from its last token on, where the path without it was read before: rows of the key/value cache are
    taken over and what they have in common is not read again. Else the whole path is read behind the prompt, which is
    read once.
    """

    def __init__(self, runner: Runner, prompt: Sequence[int]) -> None:
        """A reader of paths behind `prompt`.

        Raises:
            InputError: a prompt that the model cannot take.
        """
        self._runner, self._model = runner, runner.language_model
        (self._prompt,) = runner.rows([list(prompt)])
        self._root: tuple[_Level, Tensor] | None = None
        self._level_of: dict[TokenPath, _Level] = {}
        self._levels: list[_Level] = []

    def fits(self, path: TokenPath) -> bool:
        """Whether a token can follow the path in the model's context."""
        return len(self._prompt) + len(path) < self._runner.shape.n_ctx

    def log_probs(self, paths: Sequence[TokenPath]) -> Float[Tensor, "path vocab"]:
        """Log-probabilities of every next token, in nats, on the CPU."""
        out = torch.empty(len(paths), self._runner.shape.d_vocab_out)
        for members, found in self.read(paths):
            out[members] = found.cpu()
        return out

    def read(self, paths: Sequence[TokenPath]) -> Iterator[tuple[list[int], Float[Tensor, "member vocab"]]]:
        """The same in batches that fit the memory bound: numbers of paths, and their log-probabilities."""
        for members in self._groups(paths):
            yield members, self._read_together([paths[i] for i in members])

    @torch.no_grad()
    def _read_together(self, paths: list[TokenPath]) -> Float[Tensor, "path vocab"]:
        if self._runner.interventions:
            whole = [torch.cat([self._prompt, torch.tensor(path, dtype=torch.long)]) for path in paths]
            logits = self._runner.logits(whole, positions=-1)[:, 0]
        else:
            logits = self._model.unembed(self._final(paths))
        return logits.float().log_softmax(dim=1)

    def _groups(self, paths: Sequence[TokenPath]) -> Iterator[list[int]]:
        """Paths of one length that go on with rows of one reader, no more than fit into memory."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, path in enumerate(paths):
            level = self._level_of.get(path[:-1]) if path else None
            groups.setdefault((len(path), id(level)), []).append(i)
        for (length, _), members in groups.items():
            size = self._most_rows(len(self._prompt) + length)
            yield from (members[start : start + size] for start in range(0, len(members), size))

    def _final(self, paths: list[TokenPath]) -> Float[Tensor, "path d_model"]:
        """The final residual stream at the end of paths of one length."""
        root, final = self._read_prompt()
        if not paths[0]:
            return final.expand(len(paths), -1)
        level = self._level_of.get(paths[0][:-1])
        if level is not None and all(path[:-1] in level.row for path in paths):
            return self._go_on(level, [level.row[path[:-1]] for path in paths], paths, new=1)
        return self._go_on(root, [0] * len(paths), paths, new=len(paths[0]))

    def _read_prompt(self) -> tuple[_Level, Float[Tensor, "1 d_model"]]:
        if self._root is None:
            size = len(self._prompt)
            decoder = self._model.decoder(1, size)
            final = decoder.feed(self._prompt[None].to(self._model.device))
            self._root = _Level(decoder, {(): 0}, size, size), final
            self._level_of[()] = self._root[0]
        return self._root

    def _go_on(self, level: _Level, rows: list[int], paths: list[TokenPath], new: int) -> Float[Tensor, "path d_model"]:
        """Read the last `new` tokens of the paths behind these rows."""
        device, seen = self._model.device, level.seen + new
        whole = rows == list(range(len(level.row))) and seen <= level.capacity and len(level.row) > 0
        if whole and level is not self._root_level:
            # Every row goes on once: nothing needs to be copied, and what was there is no longer needed.
            self._forget(level)
            made = _Level(level.decoder, {}, seen, level.capacity)
        else:
            capacity = seen + ROOM
            made = _Level(level.decoder.fork(torch.tensor(rows, device=device), capacity), {}, seen, capacity)
        made.row.update({path: i for i, path in enumerate(paths)})
        final = made.decoder.feed(torch.tensor([path[-new:] for path in paths], device=device))
        self._remember(made)
        return final

    @property
    def _root_level(self) -> _Level | None:
        return None if self._root is None else self._root[0]

    def _remember(self, level: _Level) -> None:
        self._levels.append(level)
        self._level_of.update(dict.fromkeys(level.row, level))
        budget = self._runner.shares.kept
        while len(self._levels) > 1 and self._held() > budget:
            self._forget(self._levels[0])

    def _held(self) -> int:
        return sum(len(level.row) * level.capacity for level in self._levels) * self._token_bytes

    def _forget(self, level: _Level) -> None:
        self._levels.remove(level)
        for path in level.row:
            if self._level_of.get(path) is level:
                del self._level_of[path]

    @property
    def _token_bytes(self) -> int:
        """Keys and values of one token."""
        shape, element = self._runner.shape, self._model.dtype.itemsize
        return 2 * element * shape.n_layers * shape.n_key_value_heads * shape.d_head

    def _most_rows(self, length: int) -> int:
        """Paths of so many tokens, with the prompt, that can be read together."""
        runner, most = self._runner, self._runner.shares.branches
        needed = self._token_bytes * (length + ROOM) + runner.forward_bytes(length) + 16 * runner.shape.d_vocab_out
        if needed > most:
            raise InputError(
                f"memory is too small: one path of {length} tokens needs about {format_bytes(2 * needed)}, the bound "
                f"is {format_bytes(runner.memory)}."
            )
        return most // needed
