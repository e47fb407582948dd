"""The logit lens: what the unembedding makes of the residual stream before each layer (nostalgebraist 2020).

Stage s is the residual stream after s layers: 0 is the embedding, the last one what the model itself unembeds.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.metrics.measure import Each, token_sets
from mechlist.runner import Batch, Runner
from mechlist.runner.positions import gather

TokenSet = tuple[Int[Tensor, "prompt _"], Bool[Tensor, "prompt _"]]
"""Tokens of each prompt, and which of them are there."""
Translate = Callable[[int, Tensor], Tensor]
"""Maps a stage and its residual streams to what the final norm reads."""

_ROUNDINGS = 16
"""By how many roundings of the largest logit the last stage may miss the model's own logits in half precision."""


def as_it_is(stage: int, residual: Tensor) -> Tensor:  # noqa: ARG001 (a Translate's)
    """The plain lens."""
    return residual


def stage_hooks(runner: Runner) -> list[str]:
    """Hook points of all stages: before each layer, and after the last."""
    layers = runner.shape.n_layers
    return runner.hooks(*(f"blocks.{n}.hook_resid_pre" for n in range(layers)), f"blocks.{layers - 1}.hook_resid_post")


def final_norm(runner: Runner) -> Callable[[Tensor], Tensor]:
    """The model's last norm; a model that is built without norms needs none.

    Raises:
        InputError: a model whose last norm cannot be told.
    """
    if getattr(runner.model.cfg, "normalization_type", None) is None:
        return lambda residual: residual
    norm = getattr(runner.model, "ln_final", None)
    if norm is None:
        raise InputError("The logit lens needs the model's final norm as `ln_final`, and this model has none.")
    return norm


def lens_logits(
    runner: Runner,
    rows: Sequence[Tensor],
    where: Int[Tensor, "prompt n"],
    columns: Int[Tensor, " column"],
    *,
    softcap: bool = False,
    translate: Translate = as_it_is,
) -> Float[Tensor, "prompt n stage column"]:
    """Logits of some tokens from every stage at some positions; NaN where a position is -1.

    Only these positions are captured, and only these columns unembedded.

    Args:
        runner: the model.
        rows: tokens of each prompt, without padding.
        where: positions of each prompt; -1 for none.
        columns: token ids.
        softcap: apply the model's softcap, if it has one.
        translate: what is done to a stage before the final norm.

    Raises:
        InputError: positions or tokens that the model does not have, or as `final_norm`.
        MechlistError: the last stage does not give the model's own final logits.
    """
    if not ((columns >= 0) & (columns < runner.shape.d_vocab_out)).all():
        last = runner.shape.d_vocab_out - 1
        raise InputError(f"columns must be token ids from 0 to {last}, not {columns.tolist()}.")
    hooks, norm = stage_hooks(runner), final_norm(runner)
    unembed = partial(_unembed, runner, columns, softcap)

    def function(batch: Batch) -> dict[str, Tensor]:
        streams = [translate(stage, batch[hook]) for stage, hook in enumerate(hooks)]
        logits = torch.stack([unembed(norm(stream)) for stream in streams], dim=2)
        _check_last(logits[:, :, -1], unembed(gather(batch.normalized, batch.positions)), runner)
        return {"logits": logits}

    element = runner.language_model.dtype.itemsize
    found = runner.map(
        rows,
        function,
        capture=hooks,
        # A position that is not there is read at the first token, and forgotten.
        positions=where.clamp(min=0),
        row_bytes=lambda _, kept: kept * element * (3 * runner.shape.d_model + 2 * len(hooks) * len(columns)),
        label="Reading every layer",
    )["logits"]
    return found.float().masked_fill((where < 0)[:, :, None, None], torch.nan)


def lens_differences(
    runner: Runner,
    rows: Sequence[Tensor],
    where: Int[Tensor, "prompt n"],
    answer: Each,
    wrong: Each,
    *,
    softcap: bool = False,
    translate: Translate = as_it_is,
) -> Float[Tensor, "prompt n stage"]:
    """Mean logit of the answers minus mean logit of the wrong ones, from every stage; as `lens_logits`.

    Args:
        runner: the model.
        rows: tokens of each prompt, without padding.
        where: positions of each prompt; -1 for none.
        answer: token ids of all prompts, or of each.
        wrong: as `answer`; none of a prompt's tokens may be both.
        softcap: apply the model's softcap, if it has one.
        translate: what is done to a stage before the final norm.

    Raises:
        InputError: a token that is answer and wrong answer of a prompt, or as `lens_logits`.
    """
    sides = checked_sets(answer, wrong, len(rows), runner.shape.d_vocab_out)
    columns = torch.cat([ids[there] for ids, there in sides]).unique()
    logits = lens_logits(runner, rows, where, columns, softcap=softcap, translate=translate)
    return set_difference(logits, columns, *sides)


def checked_sets(answer: Each, wrong: Each, prompts: int, d_vocab: int) -> tuple[TokenSet, TokenSet]:
    """Answers and wrong answers of each prompt, with which of them are there.

    Raises:
        InputError: tokens that the vocabulary does not have, or a token on both sides of a prompt.
    """
    sides = token_sets(answer, "answer", prompts, d_vocab), token_sets(wrong, "wrong", prompts, d_vocab)
    (answers, is_answer), (wrongs, is_wrong) = sides
    same = (answers[:, :, None] == wrongs[:, None]) & is_answer[:, :, None] & is_wrong[:, None]
    if same.any():
        prompt, token, _ = same.nonzero()[0].tolist()
        both = int(answers[prompt, token])
        raise InputError(f"answer and wrong must be different tokens; for prompt {prompt} both have {both}.")
    return sides


def set_difference(
    logits: Float[Tensor, "prompt n stage column"], columns: Int[Tensor, " column"], answer: TokenSet, wrong: TokenSet
) -> Float[Tensor, "prompt n stage"]:
    """Mean logit of the one set minus mean logit of the other, from the logits of sorted `columns`."""
    up, down = (_mean_over(logits, torch.searchsorted(columns, ids), there) for ids, there in (answer, wrong))
    return up - down


def _unembed(runner: Runner, columns: Tensor, softcap: bool, normalized: Tensor) -> Tensor:
    model = runner.language_model
    if softcap:
        return model.unembed(normalized, columns.to(normalized.device))
    weight, bias = model.unembedding(columns)
    return normalized @ weight + bias


def _check_last(found: Tensor, own: Tensor, runner: Runner) -> None:
    """The last stage must give what the model itself gives: else its norm or its stream is not what it seems."""
    largest = float(own.abs().max()) if own.numel() else 0.0
    miss = float((found - own).abs().max()) if own.numel() else 0.0
    allowed = max(1e-4, _ROUNDINGS * torch.finfo(runner.language_model.dtype).eps) * max(1.0, largest)
    # Not "miss > allowed": NaN must not pass.
    if not miss <= allowed:
        raise MechlistError(
            f"The lens at the last layer misses the model's own logits by {miss:.3g} of {largest:.3g}: the model does "
            "more after its last layer than its final norm."
        )


def _mean_over(
    logits: Float[Tensor, "prompt n stage column"], places: Int[Tensor, "prompt k"], there: Tensor
) -> Float[Tensor, "prompt n stage"]:
    """The mean over some columns of each prompt."""
    index = places.clamp(max=logits.shape[-1] - 1)[:, None, None].expand(*logits.shape[:3], -1)
    weight = there.float() / there.sum(dim=1, keepdim=True)
    return torch.where(there[:, None, None], logits.gather(-1, index), 0.0).mul(weight[:, None, None]).sum(-1)
