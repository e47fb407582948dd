"""The tuned lens: affine translators that bring every stage close to the model's own prediction (Belrose et al. 2023).

Training works on residual streams that were computed once, one stage at a time, so that memory holds the streams of a
few stages, one translator with its gradients, and the logits of one batch of tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist import effort
from mechlist.errors import InputError
from mechlist.lens.logit_lens import Translate, as_it_is, final_norm, stage_hooks
from mechlist.lens.translators import Translators
from mechlist.runner import Batch, Runner
from mechlist.runner.positions import gather

RATE = 0.25
"""Of the optimiser, over the model's width: a step moves a translator's output by at most this share or so."""
DECAY = 1e-3
"""Of weights towards the identity."""
COPIES = 6
"""Of a batch's logits: both distributions, their logarithms, and the gradient."""


class Fit(NamedTuple):
    """How far a lens is from the model's own final distribution, by stage; the last stage is the model."""

    kl: Float[Tensor, "stage token"]
    """KL(model || lens) of each token that is read, in nats, in the order of prompts and positions."""
    bias: Float[Tensor, " stage"]
    """KL between the two distributions averaged over the tokens, in nats: what is wrong whatever the input."""
    prompt: Int[Tensor, " token"]
    """Number of the prompt of each token."""


def train_translators(
    runner: Runner,
    rows: Sequence[Tensor],
    where: Int[Tensor, "prompt n"],
    *,
    steps: int = 250,
    batch: int = 256,
    generator: torch.Generator,
    trained_on: Sequence[str] = (),
) -> Translators:
    """Minimise KL(model || lens) over the tokens read, from the identity on, with AdamW and a falling rate.

    Args:
        runner: the model.
        rows: tokens of each prompt, without padding.
        where: positions of each prompt that are trained on; -1 for none.
        steps: of the optimiser, for each stage.
        batch: tokens of a step.
        generator: of the batches, on the CPU.
        trained_on: labels to keep with the translators.

    Raises:
        InputError: no position, fewer than one step or token a step, or as `final_norm`.
    """
    if steps < 1 or batch < 1:
        raise InputError(f"steps and batch must be at least 1, not {steps} and {batch}.")
    _check_positions(where)
    layers, width = runner.shape.n_layers, runner.shape.d_model
    weight, bias = torch.zeros(layers, width, width), torch.zeros(layers, width)
    final = _final(runner, rows, where)
    for stage, streams in _stages(runner, rows, where, range(layers)):
        weight[stage], bias[stage] = _trained(runner, streams, final, steps, batch, generator)
    return Translators(weight, bias, runner.identity(), tuple(trained_on))


@torch.no_grad()
def lens_fit(
    runner: Runner, rows: Sequence[Tensor], where: Int[Tensor, "prompt n"], *, translate: Translate = as_it_is
) -> Fit:
    """How far the lens is from the model over the tokens read, after any softcap; `rows` and `where` as in training.

    Raises:
        InputError: no position, or as `final_norm`.
    """
    _check_positions(where)
    final, norm = _final(runner, rows, where), final_norm(runner)
    kl = torch.zeros(runner.shape.n_layers + 1, len(final))
    bias = torch.zeros(runner.shape.n_layers + 1)
    size = _tokens_at_once(runner)
    for stage, streams in _stages(runner, rows, where, range(runner.shape.n_layers)):
        model, lens = (torch.zeros(runner.shape.d_vocab_out, dtype=torch.float64) for _ in range(2))
        for piece in effort.slices(len(final), size):
            target = _log_probs(runner, _here(runner, final[piece]))
            found = _log_probs(runner, norm(translate(stage, _here(runner, streams[piece]))))
            kl[stage, piece] = _divergence(target, found).cpu()
            model += target.exp().double().sum(0).cpu()
            lens += found.exp().double().sum(0).cpu()
        bias[stage] = _divergence((model / model.sum()).log()[None], (lens / lens.sum()).log()[None]).float()[0]
    return Fit(kl, bias, (where >= 0).nonzero()[:, 0])


def _trained(
    runner: Runner,
    streams: Float[Tensor, "token d_model"],
    final: Float[Tensor, "token d_model"],
    steps: int,
    batch: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
    """The translator of one stage."""
    width, norm, device = streams.shape[1], final_norm(runner), runner.language_model.device
    # In units of the stream's size the bias learns as fast as the weight, whatever the layer.
    size = float(streams.float().square().mean().sqrt()) or 1.0
    weight = torch.zeros(width, width, device=device, requires_grad=True)
    bias = torch.zeros(width, device=device, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=RATE / width, weight_decay=DECAY)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    at_once = min(batch, _tokens_at_once(runner))
    for _ in runner.steps("Training a tuned lens", steps):
        chosen = torch.randint(len(streams), (batch,), generator=generator)
        gradients = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for part in chosen.split(at_once):
            with torch.no_grad():
                target = _log_probs(runner, _here(runner, final[part]))
            with torch.enable_grad():
                wide = _here(runner, streams[part]).float()
                moved = (wide + wide @ weight + size * bias).to(streams.dtype)
                loss = _divergence(target, _log_probs(runner, norm(moved))).sum() / batch
                # Of the translator alone: the model's weights must not collect any.
                for total, gradient in zip(gradients, torch.autograd.grad(loss, [weight, bias]), strict=True):
                    total += gradient
        weight.grad, bias.grad = gradients
        optimiser.step()
        falling.step()
    return weight.detach().cpu(), size * bias.detach().cpu()


def _stages(
    runner: Runner, rows: Sequence[Tensor], where: Int[Tensor, "prompt n"], stages: range
) -> Iterator[tuple[int, Float[Tensor, "token d_model"]]]:
    """Residual streams at the positions, stage by stage; as many of them at a time as may be kept."""
    hooks = stage_hooks(runner)
    each = int((where >= 0).sum()) * runner.shape.d_model * runner.language_model.dtype.itemsize
    at_once = max(1, runner.shares.kept // max(1, each))
    for start in range(stages.start, stages.stop, at_once):
        group = stages[start - stages.start : start - stages.start + at_once]
        names = [hooks[stage] for stage in group]
        found = runner.capture(rows, *names, positions=where.clamp(min=0))
        for stage, name in zip(group, names, strict=True):
            yield stage, found.pop(name)[where >= 0]


def _final(runner: Runner, rows: Sequence[Tensor], where: Int[Tensor, "prompt n"]) -> Float[Tensor, "token d_model"]:
    """What the model itself unembeds at the positions."""

    def function(batch: Batch) -> dict[str, Tensor]:
        return {"final": gather(batch.normalized, batch.positions)}

    return runner.map(rows, function, positions=where.clamp(min=0), label="Reading the last layer")["final"][where >= 0]


def _log_probs(runner: Runner, normalized: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
    return runner.language_model.unembed(normalized).float().log_softmax(-1)


def _divergence(target: Float[Tensor, "token vocab"], found: Float[Tensor, "token vocab"]) -> Float[Tensor, " token"]:
    """KL(target || found) in nats; an outcome of probability 0 adds nothing."""
    return torch.where(target.isneginf(), 0.0, target.exp() * (target - found)).sum(-1)


def _here(runner: Runner, streams: Tensor) -> Tensor:
    return streams.to(runner.language_model.device)


def _tokens_at_once(runner: Runner) -> int:
    """Tokens whose logits, with all that is made of them, are a piece."""
    return max(1, runner.shares.logits // (4 * COPIES * runner.shape.d_vocab_out))


def _check_positions(where: Int[Tensor, "prompt n"]) -> None:
    if not (where >= 0).any():
        raise InputError("where must name one position at least, and all are -1.")
