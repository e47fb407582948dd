"""What a model predicts at chosen positions of lists, in pieces of logits that keep to the memory bound."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.runner import Batch, Runner

COPIES = 4
"""Of a piece of logits, while something is computed from it."""


def read_logits(
    runner: Runner,
    rows: Sequence[Tensor],
    where: Int[Tensor, "list n"],
    of: Callable[[Float[Tensor, "token vocab"]], dict[str, Tensor]],
    *,
    label: str = "Running the model",
) -> dict[str, Tensor]:
    """What `of` makes of the logits (float32, after any softcap) at positions of each list; NaN where it is -1.

    Args:
        runner: the model.
        rows: tokens of each list, without padding.
        where: positions, as many a list; -1 for none.
        of: maps logits to named tensors of floats, first axis token.
        label: what the progress bar says.
    """

    def function(batch: Batch) -> dict[str, Tensor]:
        wanted = where[batch.rows.index]
        row, column = (wanted >= 0).nonzero(as_tuple=True)
        at = wanted[row, column]
        streams = batch.normalized[row.to(batch.tokens.device), at.to(batch.tokens.device)]
        size = max(1, batch.chunk_bytes // (4 * COPIES * runner.shape.d_vocab_out))
        # An empty piece tells the names and shapes where no list of the batch has a position.
        pieces = streams.split(size) if len(streams) else (streams,)
        parts = [of(runner.language_model.unembed(piece).float()) for piece in pieces]
        out: dict[str, Tensor] = {}
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts])
            out[name] = values.new_full((*wanted.shape, *values.shape[1:]), torch.nan)
            out[name][row, column] = values
        return out

    return runner.map(rows, function, label=label)
