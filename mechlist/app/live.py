"""The model behind the app: writes on from a choice, grows trees, looks, patches. One thing at a time."""

import dataclasses
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechlist.datasets.chat import model_header, stop_tokens
from mechlist.datasets.pairs.pair import Pair
from mechlist.decode import Sampling, generate
from mechlist.decode.guided import seam
from mechlist.decode.record_reading import records_of
from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.decode.tree import Tree, TreeConfig
from mechlist.decode.tree_model import grow_model_tree
from mechlist.errors import InputError
from mechlist.experiments.patch.experiment import Patch
from mechlist.figures import attention_pattern, token_labels
from mechlist.lens.look import TOP, look
from mechlist.lens.look_words import look_findings, look_tables
from mechlist.models.sites import Site, hook_name
from mechlist.runner import Runner, replace
from mechlist.text import visible
from mechlist.text_files import json_text

ALTERNATIVES = 10
"""Most probable tokens in each place of a response."""
SHOWN_PAIRS = 8
"""Pairs of which a cell is told one by one."""


@dataclass(frozen=True)
class Patched:
    """A grid that was patched, and the pairs that it is of."""

    experiment: Patch
    pairs: tuple[Pair, ...]
    results: xr.Dataset
    warned: tuple[str, ...]
    """What looks like a slip in the pairs."""


class Live:
    """A model with its tokenizer."""

    def __init__(self, runner: Runner) -> None:
        """A live model.

        Raises:
            InputError: a model without tokenizer.
        """
        self._runner, self._lock = runner, threading.Lock()
        self.name = str(runner.language_model.info["name"])
        if runner.tokenizer is None:
            raise InputError(f"The app takes text, and the model {self.name} has no tokenizer.")

    @contextmanager
    def _alone(self) -> Iterator[Runner]:
        """Requests come from several threads; a model does one thing at a time."""
        with self._lock:
            yield self._runner

    @property
    def has_chat(self) -> bool:
        """Whether its tokenizer knows a chat."""
        try:
            return bool(model_header(self._runner.tokenizer))
        except InputError:
            return False

    @property
    def layers_and_heads(self) -> tuple[int, int]:
        """How many there are."""
        return self._runner.shape.n_layers, self._runner.shape.n_heads

    def write(self, prompt: str, *, chat: bool, most: int) -> Record:
        """A response to a prompt, the most probable token at a time."""
        with self._alone() as runner:
            tokens = self._prompt(prompt, chat)
            return records_of(runner, [(prompt, tokens)], [self._written(tokens, most)], ALTERNATIVES)[0]

    def go_on(self, record: Record, place: int, other: Alternative, *, chat: bool, most: int) -> Record:
        """A record with another token in a place, and what the model then writes.

        What stands before the place keeps the numbers that it has.

        Raises:
            InputError: no room in the context; text that the tokenizer does not take.
        """
        kept, instead = record.tokens[:place], record.tokens[place]
        # Where the model was asked, its most probable tokens are all there, in order.
        better = sum(one.log_prob > other.log_prob for one in instead.alternatives)
        rank = None if instead.rank is None else better
        chosen = RecordedToken(other.token, other.log_prob, instead.alternatives, other.token_id, rank, instead.entropy)
        with self._alone() as runner:
            before = self._before(record, [*kept, chosen], chat)
            ended = other.token_id is not None and other.token_id in stop_tokens(runner.tokenizer)
            written = () if ended else self._written(before, most)
            new = records_of(runner, [("", before)], [written], ALTERNATIVES)[0].tokens if written else ()
        tokens = (*kept, chosen, *new)
        return Record(record.prompt, "".join(token.token for token in tokens), tokens)

    def tree(self, prompt: str, config: TreeConfig, *, chat: bool) -> Tree:
        """The likely continuations of a prompt."""
        with self._alone() as runner:
            tokens = self._prompt(prompt, chat)
            known = dataclasses.replace(config, stop_tokens=stop_tokens(runner.tokenizer))
            return grow_model_tree(runner, tokens, known, text=prompt)

    def look(self, text: str, *, every: bool) -> tuple[list[str], dict[str, pd.DataFrame]]:
        """The first look at a prompt: sentences and tables."""
        with self._alone() as runner:
            seen = look(runner, text, every=every)
            return look_findings(runner, seen), look_tables(runner, seen, most=TOP)

    def attention(self, text: str, layer: int, head: int) -> go.Figure:
        """Where a head looks in a prompt."""
        layers, heads = self.layers_and_heads
        if not (0 <= layer < layers and 0 <= head < heads):
            raise InputError(
                f"layer must be from 0 to {layers - 1} and head from 0 to {heads - 1}, not {layer} and {head}."
            )
        with self._alone() as runner:
            hook = f"blocks.{layer}.attn.hook_pattern"
            tokens = runner.to_tokens(text)
            weights = runner.capture([tokens], hook)[hook][0, head].float().cpu().numpy()
            labels = token_labels([visible(t) for t in runner.token_texts(tokens)])
        return attention_pattern(
            xr.DataArray(weights, dims=("query", "key")),
            title=f"Where L{layer}H{head} looks",
            caption="Each row is a token that looks, each column what it looks at.",
            labels=labels,
        )

    def patch(self, texts: Sequence[Mapping[str, str]], site: str) -> Patched:
        """Every layer and position of clean prompts patched into corrupt ones.

        Args:
            texts: pairs, with the keys clean, corrupt, answer and wrong.
            site: activation that is patched.

        Raises:
            InputError: prompts or answers that do not fit each other.
        """
        with self._alone() as runner, tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            file.write_text("".join(json_text(dict(pair)) + "\n" for pair in texts), encoding="utf-8")
            experiment = Patch(pairs=file, site=cast(Site, site))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                pairs = experiment.found_pairs(runner).pairs
                warned = tuple(dict.fromkeys(str(one.message) for one in said))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # They were just heard.
                return Patched(experiment, tuple(pairs), experiment.run(runner), warned)

    def cell(self, patched: Patched, layer: int, position: int) -> pd.DataFrame:
        """What one cell does, pair by pair: logits of answer and wrong answer, and the token that is predicted then.

        Raises:
            InputError: a cell that there is not.
        """
        layers, longest = self.layers_and_heads[0], max(len(pair.clean) for pair in patched.pairs)
        if not (0 <= layer < layers and 0 <= position < longest):
            raise InputError(
                f"layer must be from 0 to {layers - 1} and position from 0 to {longest - 1}, not {layer} and "
                f"{position}."
            )
        hook, rows = hook_name(patched.experiment.site, layer), []
        with self._alone() as runner:
            for pair in patched.pairs[:SHOWN_PAIRS]:
                if position >= len(pair.clean):
                    continue
                value = runner.capture([list(pair.clean)], hook, positions=[position])[hook]
                with runner.intervene(replace(hook, value, positions=[position])):
                    logits = runner.logits([list(pair.corrupt)], positions=-1)[0, 0].float().cpu()
                rows.append(_cell_row(runner, logits, pair))
        return pd.DataFrame(rows)

    def _prompt(self, text: str, chat: bool) -> tuple[int, ...]:
        if not text:
            raise InputError("The prompt is empty: type one.")
        return seam(self._runner, text, "", chat=chat).prompt

    def _written(self, before: Sequence[int], most: int) -> tuple[int, ...]:
        room = self._runner.shape.n_ctx - len(before)
        if room < 1:
            raise InputError(f"The text has {len(before)} tokens, which fill the model's context: nothing can follow.")
        if most < 1:
            raise InputError(f"The number of new tokens must be at least 1, not {most}.")
        written = generate(
            self._runner,
            [list(before)],
            max_new_tokens=min(most, room),
            sampling=Sampling(greedy=True),
            stop_tokens=stop_tokens(self._runner.tokenizer),
        )
        return written[0][0].tokens

    def _before(self, record: Record, tokens: Sequence[RecordedToken], chat: bool) -> tuple[int, ...]:
        """Prompt and tokens: by their ids, where those are of this model's vocabulary, else by their text."""
        ids = [token.token_id for token in tokens if token.token_id is not None]
        texts = [token.token for token in tokens]
        inside = all(0 <= i < self._runner.shape.d_vocab for i in ids)
        if len(ids) == len(tokens) and inside and self._runner.token_texts(ids) == texts:
            return (*self._prompt(record.prompt, chat), *ids)
        return seam(self._runner, record.prompt, "".join(texts), chat=chat).together


def _cell_row(runner: Runner, logits: Float[Tensor, " vocab"], pair: Pair) -> dict[str, Any]:
    """Logits at the end of a patched prompt."""
    best = int(logits.argmax())
    answer, wrong, first = (visible(text) for text in runner.token_texts([pair.answer, pair.wrong, best]))
    return {
        "logit of the answer": f"{logits[pair.answer]:.3f} ({answer})",
        "of the wrong answer": f"{logits[pair.wrong]:.3f} ({wrong})",
        "difference": float(logits[pair.answer] - logits[pair.wrong]),
        "predicted now": f"{first} ({logits.softmax(0)[best]:.1%})",
    }
