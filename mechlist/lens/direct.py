"""Direct logit attribution: how much of a logit difference each part of the model writes by itself."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.metrics.measure import Each, token_sets
from mechlist.models.language_model import LanguageModel
from mechlist.models.layers.layers import Layers
from mechlist.models.layers.norms import Norm
from mechlist.runner import Runner
from mechlist.runner.batch import Batch

MISSES = 1e-3
"""Of the largest term: by how much the sum of all may miss the logit difference in single precision, or it is wrong."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Terms of a logit difference (logits, before any softcap); NaN at positions that are not asked for."""

    embedding: Float[Tensor, "prompt n"]
    """What stands in the residual stream before the first layer."""
    heads: Float[Tensor, "prompt n layer head"]
    attention_bias: Float[Tensor, "prompt n layer"]
    """Of attention's output; 0 where a norm comes after attention: there the heads share it."""
    mlp: Float[Tensor, "prompt n layer"] | None
    """None for a model without MLPs."""
    bias: Float[Tensor, "prompt n"]
    """Of the last norm and of the unembedding."""
    total: Float[Tensor, "prompt n"]
    """The logit difference itself, from the model's own final norm."""

    @property
    def attention(self) -> Float[Tensor, "prompt n layer"]:
        """What attention adds in each layer: its heads and its bias."""
        return self.heads.sum(-1) + self.attention_bias

    @property
    def sum(self) -> Float[Tensor, "prompt n"]:
        """Of all terms."""
        mlp = 0.0 if self.mlp is None else self.mlp.sum(-1)
        return self.embedding + self.attention.sum(-1) + mlp + self.bias

    @property
    def accumulated(self) -> Float[Tensor, "prompt n stage"]:
        """The sum up to the embedding, then up to the end of each layer; only with `bias` the last one is `sum`."""
        added = self.attention if self.mlp is None else self.attention + self.mlp
        return torch.cat([self.embedding[..., None], added], dim=-1).cumsum(-1)

    @property
    def error(self) -> float:
        """Largest distance of the sum from the logit difference: float rounding."""
        return float((self.sum - self.total).abs().nan_to_num(nan=0.0).max())

    @property
    def largest(self) -> float:
        """Size of the largest term, with which rounding is compared."""
        terms = [self.embedding[..., None], self.heads.flatten(2), self.attention_bias, self.bias[..., None]]
        every = torch.cat(terms if self.mlp is None else [*terms, self.mlp], dim=-1)
        return float(every.abs().nan_to_num(nan=0.0).max())


def direct_attribution(
    runner: Runner,
    prompts: Int[Tensor, "prompt position"] | list[Int[Tensor, " _"]],
    positions: Int[Tensor, "row n"],
    *,
    answer: Each,
    wrong: Each,
) -> Attribution:
    """Split the logit difference of two sets of tokens into what each part of the model adds to it directly.

    The last norm is frozen: its scale (and for LayerNorm its centring) is that of the run itself, so that it is linear
    and the terms add up to the logit difference before any softcap (Elhage et al. 2021; Nanda's demonstration). A part
    that acts through later ones shows here only with what it writes itself. Where a norm follows attention, as in
    Gemma 2, a head's output is divided by the size of what all heads write: heads then add up to attn_out. Values'
    biases are in the heads' terms, unless processing has moved them into attention's bias.

    Sets of tokens are averaged. Only the positions asked for are kept; interventions in place act as in any pass.

    Args:
        runner: with the model.
        prompts: token ids of each prompt; on padded ones, keep positions within the real tokens.
        positions: where the difference is read, counted from the start; -1 for none.
        answer: token ids, for all prompts or for each.
        wrong: token ids, none of which is an answer.

    Raises:
        InputError: a model whose layers cannot be taken apart, positions or tokens that there are not, tokens that
            are in both sets.
        MechlistError: terms that do not add up, for instance because an intervention replaces what they add up to.
    """
    layers, number = runner.language_model.require_layers("Direct logit attribution"), len(prompts)
    if layers.final_norm is None and runner.model.cfg.normalization_type is not None:
        raise InputError("The model's last norm must be a LayerNorm or an RMSNorm to be frozen, and it is neither.")
    _check(runner, prompts, positions)
    sides = [
        token_sets(ids, name, number, runner.shape.d_vocab_out) for name, ids in (("answer", answer), ("wrong", wrong))
    ]
    _check_apart(*sides[0], *sides[1])
    there = positions >= 0
    hooks = _hooks(runner)

    def terms(batch: Batch) -> dict[str, Tensor]:
        rows = batch.rows.index.cpu()
        return _terms(runner, layers, batch, [(ids[rows], real[rows]) for ids, real in sides])

    each = runner.shape.n_heads * runner.shape.d_model * (8 + 2 * runner.language_model.dtype.itemsize)
    found = runner.map(
        prompts,
        terms,
        capture=hooks,
        positions=positions.clamp(min=0),
        row_bytes=lambda _, kept: kept * each,
        label="Direct logit attribution",
    )
    kept = {
        name: value.masked_fill(~there.view(*there.shape, *[1] * (value.ndim - 2)), torch.nan)
        for name, value in found.items()
    }
    out = Attribution(**{"mlp": None, **kept})
    _check_sum(runner, out)
    return out


def _terms(
    runner: Runner, layers: Layers, batch: Batch, sides: list[tuple[Tensor, Tensor]]
) -> dict[str, Float[Tensor, "row n ..."]]:
    """All terms of a batch, in float64: dot products of long vectors that cancel would lose digits."""
    model, shape = runner.language_model, runner.shape
    weight, offset = _direction(model, *sides[0]), _direction(model, *sides[1])
    along, constant = weight[0] - offset[0], weight[1] - offset[1]
    final = batch.activations[_last(runner)]
    read = batch.normalized[torch.arange(len(final), device=final.device)[:, None], batch.positions]
    vector, from_norm = frozen_norm(layers.final_norm, final.double(), along[:, None])

    def dot(part: Tensor, axis: str = "") -> Tensor:
        return torch.einsum(f"rn{axis}m,rnm->rn{axis}", part.double(), vector)

    heads, biases, mlps = [], [], []
    for layer in range(shape.n_layers):
        z = batch[f"blocks.{layer}.attn.hook_z"]
        written = dot(layers.head_outputs(layer, z.flatten(0, 1)).unflatten(0, z.shape[:2]), "h")
        shared = vector @ layers.output_bias(layer).double()
        heads.append(written - shared[..., None] / shape.n_heads)
        biases.append(shared)
        if not shape.attn_only:
            mlps.append(dot(batch[f"blocks.{layer}.hook_mlp_out"]))
    found = {
        "embedding": dot(batch["blocks.0.hook_resid_pre"]),
        "heads": torch.stack(heads, dim=2),
        "attention_bias": torch.stack(biases, dim=2),
        "bias": (from_norm + constant[:, None]).expand(final.shape[:2]),
        "total": torch.einsum("rnm,rm->rn", read.double(), along) + constant[:, None],
    }
    return found if shape.attn_only else found | {"mlp": torch.stack(mlps, dim=2)}


def frozen_norm(
    norm: Norm | None, final: Float[Tensor, "row n d_model"], along: Float[Tensor, "row #n d_model"]
) -> tuple[Float[Tensor, "row n d_model"], Float[Tensor, "row #n"]]:
    """The last norm as a linear map: what to multiply parts of `final` with to get their share along `along`.

    Args:
        norm: written out; None for a model without.
        final: the residual stream after the last layer, whose scale it is.
        along: a direction behind the norm.

    Returns:
        The same direction before the norm, and what the norm's bias adds to every result.
    """
    zero = torch.zeros_like(along[..., 0])
    if norm is None:
        return along.expand_as(final), zero
    gain = along if norm.gain is None else along * norm.gain.double()
    added = zero if norm.bias is None else along @ norm.bias.double()
    # A part less its own mean, along a direction, is the part along the direction less the direction's mean.
    return (gain - gain.mean(-1, keepdim=True) if norm.centred else gain) / norm.scale(final), added


def _direction(
    model: LanguageModel, ids: Int[Tensor, "row k"], real: Bool[Tensor, "row k"]
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " row"]]:
    """Mean unembedding of each row's tokens, and mean bias."""
    share = (real.double() / real.sum(1, keepdim=True)).to(model.device)
    weight, bias = model.unembedding(ids)
    return torch.einsum("mrk,rk->rm", weight.double(), share), (bias.double() * share).sum(1)


def _last(runner: Runner) -> str:
    return f"blocks.{runner.shape.n_layers - 1}.hook_resid_post"


def _hooks(runner: Runner) -> list[str]:
    layers = range(runner.shape.n_layers)
    mlps = [] if runner.shape.attn_only else [f"blocks.{layer}.hook_mlp_out" for layer in layers]
    return ["blocks.0.hook_resid_pre", *[f"blocks.{layer}.attn.hook_z" for layer in layers], *mlps, _last(runner)]


def _check(runner: Runner, prompts: Any, positions: Int[Tensor, "row n"]) -> None:
    rows = runner.rows(prompts)
    if len(positions) != len(rows):
        raise InputError(f"positions must have one row for each of the {len(rows)} prompts, not {len(positions)}.")
    if not (positions >= 0).any():
        raise InputError("positions must hold one position at least that is not -1: no prompt has any.")


def _check_apart(answer: Tensor, is_answer: Tensor, wrong: Tensor, is_wrong: Tensor) -> None:
    same = (answer[:, :, None] == wrong[:, None]) & is_answer[:, :, None] & is_wrong[:, None]
    if same.any():
        prompt, place, _ = same.nonzero()[0].tolist()
        raise InputError(
            f"answer and wrong must be different tokens; for prompt {prompt} both have {int(answer[prompt, place])}."
        )


def _check_sum(runner: Runner, out: Attribution) -> None:
    """In half precision the residual stream itself is rounded after every layer, so there the error is only told."""
    single = runner.language_model.dtype in (torch.float32, torch.float64)
    if single and not out.error <= MISSES * out.largest:
        cause = "an intervention replaces what they add up to" if runner.interventions else "please report the model"
        raise MechlistError(
            f"The terms of the logit difference miss it by {out.error:.3g}, the largest of them being "
            f"{out.largest:.3g}: {cause}."
        )
