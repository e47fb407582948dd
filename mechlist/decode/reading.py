"""What a model expected at every token of texts: one batched pass, and only the columns that are asked for."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mechlist.errors import InputError
from mechlist.metrics.logits import Prediction, prediction
from mechlist.runner import Runner
from mechlist.runner.batch import Batch
from mechlist.runner.batching import Prompts

COPIES = 6
"""Of the logits of a token while it is looked at, in float32."""


def read_predictions(
    runner: Runner, sequences: Prompts, starts: Sequence[int], k: int
) -> tuple[Int[Tensor, "record token"], Prediction]:
    """The tokens of each sequence from its start on, and what the model said of them before it read them.

    Logits are made in pieces and never kept.

    Args:
        runner: with the model.
        sequences: token ids, whatever their lengths.
        starts: position of the first token of each that is looked at, 1 at least.
        k: most probable tokens that are kept.

    Returns:
        Token ids (-1 beyond the end), and a `Prediction` of tensors [record token] (NaN, or -1 for whole numbers).

    Raises:
        InputError: a start without a token before or after it; more alternatives than there are tokens.
    """
    if not 0 < k <= runner.shape.d_vocab_out:
        raise InputError(f"alternatives must be from 1 to the {runner.shape.d_vocab_out} of the vocabulary, not {k}.")

    def look(batch: Batch, streams: Float[Tensor, "token d_model"], target: Int[Tensor, " token"]) -> dict[str, Tensor]:
        return prediction(batch.model.unembed(streams), target, k)._asdict()

    found = _read(runner, sequences, starts, look, runner.shape.d_vocab_out, "Reading texts")
    return found.pop("token"), Prediction(**found)


def read_columns(
    runner: Runner, sequences: Prompts, starts: Sequence[int], columns: Int[Tensor, " column"]
) -> tuple[Int[Tensor, "record token"], Float[Tensor, "record token column"]]:
    """The tokens of each sequence from its start on, and the logits of some tokens of the vocabulary in their places.

    Nothing else is unembedded: there are no probabilities, which take the whole vocabulary.

    Raises:
        InputError: a start without a token before or after it; columns outside the vocabulary.
    """
    if not len(columns) or not ((columns >= 0) & (columns < runner.shape.d_vocab_out)).all():
        raise InputError(f"columns must be token ids from 0 to {runner.shape.d_vocab_out - 1}, not {columns.tolist()}.")

    def look(
        batch: Batch,
        streams: Float[Tensor, "token d_model"],
        target: Int[Tensor, " token"],  # noqa: ARG001
    ) -> dict[str, Tensor]:
        return {"logit": batch.model.unembed(streams, columns.to(streams.device)).float()}

    found = _read(runner, sequences, starts, look, len(columns), "Reading texts")
    return found["token"], found["logit"]


Look = Callable[[Batch, Tensor, Tensor], dict[str, Tensor]]


def _read(
    runner: Runner, sequences: Prompts, starts: Sequence[int], look: Look, width: int, label: str
) -> dict[str, Tensor]:
    """What `look` makes of the residual stream before each token, and the tokens, by sequence from its start on."""
    rows = runner.rows(sequences)
    lengths = [len(row) for row in rows]
    if len(starts) != len(lengths) or any(not 0 < s < n for s, n in zip(starts, lengths, strict=False)):
        raise InputError(
            f"Each text must have a token before its start and one behind it: starts are {list(starts)} in sequences "
            f"of {lengths} tokens."
        )
    first = torch.tensor(list(starts))

    def function(batch: Batch) -> dict[str, Tensor]:
        start = first[batch.rows.index].to(batch.tokens.device)[:, None]
        position = torch.arange(1, batch.tokens.shape[1], device=batch.tokens.device)[None]
        row, column = ((position >= start) & batch.real[:, 1:]).nonzero().T
        streams, target = batch.normalized[row, column], batch.tokens[row, column + 1]
        size = max(1, batch.chunk_bytes // (4 * COPIES * width))
        pieces = [look(batch, *piece) for piece in zip(streams.split(size), target.split(size), strict=True)]
        told = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]} | {"token": target}
        place = row, column + 1 - start[row, 0]
        shape = len(batch.tokens), int(place[1].max()) + 1
        return {name: _placed(value, place, shape) for name, value in told.items()}

    return runner.map(rows, function, label=label)


def _placed(
    values: Shaped[Tensor, "token *rest"], place: tuple[Tensor, Tensor], shape: tuple[int, int]
) -> Shaped[Tensor, "row column *rest"]:
    """Values in a table of rows; NaN or -1 where there is none."""
    empty = torch.nan if values.is_floating_point() else -1
    out = torch.full((*shape, *values.shape[1:]), empty, dtype=values.dtype, device=values.device)
    out[place] = values
    return out
