"""The first look at a prompt: its tokens, what comes next, what each layer would say, which heads look where."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.lens.logit_lens import final_norm, stage_hooks
from mechlist.runner import Batch, Runner

TOP = 5
"""Next tokens and heads that are told."""
_COPIES = 3
"""Of the logits that stand at a time: themselves, their softmax, and their order."""


@dataclass(frozen=True)
class Look:
    """What a model makes of one prompt at some of its positions."""

    model: str
    tokens: tuple[int, ...]
    """Token ids, with BOS where the model has one."""
    texts: tuple[str, ...]
    """Text of each token."""
    positions: tuple[int, ...]
    """Where it was looked at, counted from the start."""
    top_token: Int[Tensor, "position rank"]
    """The most probable next tokens, the best first."""
    logit: Float[Tensor, "position rank"]
    probability: Float[Tensor, "position rank"]
    next_rank: Int[Tensor, " position"]
    """Rank of the token that does come next, 1 for the most probable; 0 at the end of the prompt."""
    stage_token: Int[Tensor, "position stage"]
    """What the stream after so many layers would say (logit lens); the last stage is the model itself."""
    stage_probability: Float[Tensor, "position stage"]
    stage_rank: Int[Tensor, "position stage"]
    """Rank of the model's own first token at each stage."""
    head: Int[Tensor, "position rank 2"]
    """Layer and number of the heads that put the most weight on one token, BOS aside; none without patterns."""
    attended: Int[Tensor, "position rank"]
    """Position of that token."""
    weight: Float[Tensor, "position rank"]

    @property
    def settled(self) -> list[int]:
        """The stage from which on the model's own first token comes first, at each position."""
        return [int((ranks != 1).nonzero()[-1]) + 1 if (ranks != 1).any() else 0 for ranks in self.stage_rank]


def look(runner: Runner, text: str, *, every: bool = False) -> Look:
    """Look at a text at its last token, or at every one.

    Raises:
        InputError: an empty text, one beyond the context, or a model without tokenizer.
    """
    if not text:
        raise InputError("The text is empty: give a prompt to look at.")
    if runner.tokenizer is None:
        name = runner.language_model.info["name"]
        raise InputError(f"Looking at a text needs a tokenizer, and the model {name} has none.")
    tokens = runner.to_tokens(text)
    if len(tokens) > runner.shape.n_ctx:
        raise InputError(
            f"The text has {len(tokens)} tokens, and the context of the model holds {runner.shape.n_ctx}: shorten it."
        )
    positions = range(len(tokens)) if every else range(len(tokens) - 1, len(tokens))
    read = _read(runner, tokens, list(positions))
    return Look(
        str(runner.language_model.info["name"]),
        tuple(tokens),
        tuple(runner.token_texts(tokens)),
        tuple(positions),
        *(read[name] for name in ("token", "logit", "probability", "next", "stage_token", "stage_probability")),
        *(read[name] for name in ("stage_rank", "head", "attended", "weight")),
    )


def _read(runner: Runner, tokens: Sequence[int], positions: list[int]) -> dict[str, Tensor]:
    """Everything of a `Look` that comes from the pass, first axis position."""
    stages, norm, vocab = stage_hooks(runner), final_norm(runner), runner.shape.d_vocab_out
    each = [f"blocks.{n}.attn.hook_pattern" for n in range(runner.shape.n_layers)]
    # Some architectures make no patterns: their prompts can be looked at all the same.
    patterns = each if set(each) <= set(runner.language_model.hook_names) else []
    coming = torch.tensor([*tokens[1:], -1])[positions]

    def function(batch: Batch) -> dict[str, Tensor]:
        final = batch.normalized[0, positions]
        parts = []
        for n in range(len(positions)):
            # One position at a time: logits of every stage stand beside each other.
            streams = [norm(batch[hook][0, n : n + 1]) for hook in stages[:-1]]
            parts.append(_said(batch.model.unembed(torch.cat([*streams, final[n : n + 1]])).float(), int(coming[n])))
        found = {name: torch.stack([part[name] for part in parts])[None] for name in parts[0]}
        weights = [batch[hook][0].float() for hook in patterns]
        return found | _attended(weights, int(tokens[0] == runner.bos_token_id), TOP, len(positions))

    found = runner.map(
        [tokens],
        function,
        capture=[*stages, *patterns],
        positions=torch.tensor([positions]),
        row_bytes=lambda *_: 4 * _COPIES * len(stages) * vocab,
        label="Looking at the text",
    )
    return {name: value[0] for name, value in found.items()}


def _said(logits: Float[Tensor, "stage vocab"], coming: int) -> dict[str, Tensor]:
    """What comes next at one position, the last stage being the model itself, and what each stage would say."""
    last, shares = logits[-1], logits.softmax(-1)
    best = last.topk(min(TOP, len(last)))
    first = logits[:, best.indices[0], None]
    return {
        "token": best.indices,
        "logit": best.values,
        "probability": shares[-1, best.indices],
        "next": torch.tensor(0 if coming < 0 else 1 + int((last > last[coming]).sum())),
        "stage_token": logits.argmax(-1),
        "stage_probability": shares.amax(-1),
        "stage_rank": 1 + (logits > first).sum(-1),
    }


def _attended(
    patterns: Sequence[Float[Tensor, "head position key"]], first: int, most: int, positions: int
) -> dict[str, Tensor]:
    """The heads that put most weight on one token from `first` on, at each position: the heads, the token, the weight.

    BOS is where a head looks that has nothing to look for.
    """
    if not patterns or patterns[0].shape[-1] <= first:
        empty = torch.zeros(1, positions, 0)
        return {"head": empty.long()[..., None].expand(-1, -1, -1, 2), "attended": empty.long(), "weight": empty}
    heads = torch.tensor([(layer, head) for layer, of in enumerate(patterns) for head in range(len(of))])
    best = torch.cat(list(patterns))[..., first:].max(-1)
    strongest = best.values.T.topk(min(most, len(heads)))
    return {
        "head": heads[strongest.indices.cpu()][None],
        "attended": best.indices.T.gather(1, strongest.indices)[None] + first,
        "weight": strongest.values[None],
    }
