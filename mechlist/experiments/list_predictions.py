"""What a model predicts along given lists (teacher-forced): logits at chosen positions, and the study's quantities."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.parse import ListTokens
from mechlist.decode import Sampling
from mechlist.decode.sampling import SORTED_COPIES
from mechlist.runner import Batch, Runner

COPIES = 4
"""Of a piece of logits, while something is computed from it."""

Positions = Float[np.ndarray, "list position"]
Of = Callable[[Float[Tensor, "token vocab"], Int[Tensor, " token"]], dict[str, Tensor]]
"""Maps logits (float32, after any softcap), and the number of the list that each belongs to, to named tensors."""


class Predictions(NamedTuple):
    """Of the next token after each position of each list, from the prefilled hyphen on; NaN elsewhere."""

    end: Positions
    """Probability of the end of the turn, by the model itself."""
    drawn_end: Positions
    """The same by the rules that a list was drawn with; NaN where they are not known."""
    end_first: Positions
    """1 where the end is the most probable token, else 0."""
    filler: Positions
    """Probability of a blank."""
    entropy: Positions
    """In nats."""
    end_logit: Positions
    """Logit of end of turn minus that of the hyphen."""
    filler_logit: Positions
    """Logit of a blank minus that of the line break."""


def read_logits(
    runner: Runner,
    rows: Sequence[Tensor],
    where: Int[Tensor, "list n"],
    of: Of,
    *,
    copies: int = COPIES,
    label: str = "Running the model",
) -> dict[str, Tensor]:
    """What `of` makes of the logits at positions of each list, in pieces that keep to the memory bound.

    Args:
        runner: the model, with its interventions.
        rows: tokens of each list, without padding.
        where: positions, as many a list; -1 for none.
        of: maps logits to named tensors of floats, first axis token.
        copies: of a piece of logits that `of` makes on its way.
        label: what the progress bar says.

    Returns:
        Tensors [list, n, ...] with NaN where there is no position.
    """

    def function(batch: Batch) -> dict[str, Tensor]:
        wanted = where[batch.rows.index]
        row, column = (wanted >= 0).nonzero(as_tuple=True)
        at, device = wanted[row, column], batch.tokens.device
        streams, lists = batch.normalized[row.to(device), at.to(device)], batch.rows.index[row]
        size = max(1, batch.chunk_bytes // (4 * copies * runner.shape.d_vocab_out))
        # An empty piece tells the names and shapes where no list of the batch has a position.
        pieces = list(zip(streams.split(size), lists.split(size), strict=True)) or [(streams, lists)]
        parts = [of(runner.language_model.unembed(piece).float(), numbers) for piece, numbers in pieces]
        out: dict[str, Tensor] = {}
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts])
            out[name] = values.new_full((*wanted.shape, *values.shape[1:]), torch.nan)
            out[name][row, column] = values
        return out

    return runner.map(rows, function, label=label)


def predict(
    runner: Runner, lists: ListSet, *, rules: Sequence[Sampling | None] | None = None, label: str
) -> Predictions:
    """One forward pass over every list, with the runner's interventions.

    Args:
        runner: with the model whose predictions are asked for.
        lists: that are read.
        rules: of drawing, one a list, for `drawn_end`; without, it is NaN.
        label: what the progress bar says.
    """
    special, every = lists.special, list(dict.fromkeys(rules or ()))
    ends, own = torch.tensor(special.ends), torch.tensor([every.index(rule) for rule in rules or ()])

    def of(logits: Float[Tensor, "token vocab"], numbers: Int[Tensor, " token"]) -> dict[str, Tensor]:
        drawn = logits.new_full((len(logits),), torch.nan, dtype=torch.float64)
        for number, rule in enumerate(every):
            here = (own[numbers] == number).to(logits.device)
            if rule is not None:
                drawn[here] = rule.probability_of(logits[here], ends)
        return {"values": torch.stack(_columns(logits, special, ends, drawn), dim=1)}

    where = _from_hyphen_on(lists)
    found = read_logits(runner, lists.rows, where, of, copies=COPIES if rules is None else SORTED_COPIES, label=label)[
        "values"
    ].numpy()
    out = np.full((len(Predictions._fields), *lists.tokens.shape), np.nan)
    row, column = np.nonzero(where.numpy() >= 0)
    out[:, row, where.numpy()[row, column]] = found[row, column].T
    return Predictions(*out)


def drawing_rules(lists: ListSet) -> list[Sampling | None]:
    """How each list was drawn; None where its temperature is not known."""
    return [_rule(*pair) for pair in zip(lists.temperature.tolist(), lists.top_p.tolist(), strict=True)]


def _rule(temperature: float, top_p: float) -> Sampling | None:
    if np.isnan(temperature):
        return None
    if temperature == 0:
        return Sampling(greedy=True)
    return Sampling(temperature=temperature, top_p=1.0 if np.isnan(top_p) else top_p)


def _from_hyphen_on(lists: ListSet) -> Int[Tensor, "list n"]:
    """Positions whose next token is, or would be, part of the list; -1 behind them."""
    starts, stops = torch.tensor(lists.starts), torch.from_numpy(lists.stops)
    where = starts[:, None] + torch.arange(int((stops - starts).max()))
    return torch.where(where < stops[:, None], where, -1)


def _columns(
    logits: Float[Tensor, "token vocab"], special: ListTokens, ends: Int[Tensor, " end"], drawn: Float[Tensor, " token"]
) -> list[Float[Tensor, " token"]]:
    """Values of the `Predictions`, in their order."""
    log_prob = logits.log_softmax(dim=1)
    prob, own = log_prob.exp(), ends.to(logits.device)
    columns = [
        prob[:, own].sum(dim=1),
        drawn,
        torch.isin(logits.argmax(dim=1), own),
        prob[:, special.blank],
        -torch.where(log_prob.isneginf(), 0.0, prob * log_prob).sum(dim=1),
        logits[:, special.end_of_turn] - logits[:, special.hyphen],
        logits[:, special.blank] - logits[:, special.line_break],
    ]
    return [column.double() for column in columns]
