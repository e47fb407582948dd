"""From the final hidden state to logits: W_U, its bias, what follows it, and the gain of the norm before it."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError, MechlistError
from mechlist.models.factored import embedding, unembedding
from mechlist.runner import Batch, Runner
from mechlist.runner.batching import Prompts
from mechlist.runner.positions import Positions, gather

PROBES = 64
"""Tokens on which the unembedding is compared with the model's own logits, and with its embedding."""
_ROUNDING = 1e-4


@dataclass(frozen=True, eq=False)
class OutputWeights:
    """How a model makes logits of the final hidden state, which is the residual stream after the last norm."""

    weight: Float[Tensor, "d_model vocab"]
    """The model's own tensor, not a copy."""
    bias: Float[Tensor, " vocab"]
    has_bias: bool
    """Whether any of it is not 0."""
    multiplier: float
    """Of the logits, before any softcap."""
    softcap: float | None
    """Logits end as softcap * tanh(logits / softcap)."""
    gain: Float[Tensor, " d_model"]
    """That the last norm multiplies its output with; 1 where it has none, or where it is folded into `weight`."""
    shift: Float[Tensor, " d_model"]
    """That the last norm adds."""
    tied_factor: float | None
    """The embedding is the unembedding times this; None where they are different weights."""

    @property
    def folded_gain(self) -> Float[Tensor, "d_model vocab"]:
        """The unembedding with the final norm's gain taken in: a copy of the same size."""
        return self.weight * self.gain[:, None].to(self.weight)

    def logits(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Of final hidden states."""
        return self.finish(states.to(self.weight) @ self.weight)

    def finish(
        self, products: Float[Tensor, "*batch column"], columns: slice | Tensor = slice(None)
    ) -> Float[Tensor, "*batch column"]:
        """Logits of some columns of the vocabulary, from the products of states and weights; maybe the same tensor."""
        logits = products
        if self.has_bias:
            logits = logits + self.bias[columns].to(logits)
        if self.multiplier != 1:
            logits = logits * self.multiplier
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def output_weights(runner: Runner) -> OutputWeights:
    """Of the Runner's model, compared with what the model itself makes of a hidden state.

    Raises:
        MechlistError: the model does more to its logits than a multiplier, a bias and a softcap.
    """
    model, module = runner.language_model, runner.model
    cap = float(getattr(model, "softcap", None) or 0.0)
    weight, bias = unembedding(module), module.b_U.detach()
    gain, shift = final_gain(getattr(module, "ln_final", None), len(weight), weight)
    columns = torch.linspace(0, weight.shape[1] - 1, PROBES).long().unique().to(weight.device)
    probe = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    # Small logits, so that a softcap can be undone.
    probe = probe / (probe @ weight[:, columns]).abs().amax().clamp(min=1e-6)
    # With the softcap undone, logits are linear in the state, and the slope is the multiplier.
    with torch.no_grad():
        zero, some = (_uncapped(model.unembed(state, columns).double(), cap) for state in (0 * probe, probe))
        slope = (probe @ weight[:, columns]).double()
    multiplier = float(((some - zero) * slope).sum() / slope.square().sum().clamp(min=1e-300))
    found = OutputWeights(
        weight=weight,
        bias=bias,
        has_bias=bool(bias.any()),
        multiplier=1.0 if abs(multiplier - 1) < 1e-2 else round(multiplier, 6),
        softcap=cap if cap > 0 else None,
        gain=gain,
        shift=shift,
        tied_factor=_tied(module, weight, columns),
    )
    with torch.no_grad():
        own, ours = model.unembed(probe, columns), found.finish(probe @ weight[:, columns], columns)
    miss = float((own - ours).abs().max())
    allowed = max(_ROUNDING, 16 * torch.finfo(weight.dtype).eps) * max(1.0, float(own.abs().max()))
    if not miss <= allowed:
        raise MechlistError(
            f"The model's logits of a hidden state differ by {miss:.3g} from those of its unembedding, bias and "
            "softcap: it does something else to them, and reading W_U would mislead."
        )
    return found


def final_gain(
    norm: Any, width: int, like: Float[Tensor, "d_model vocab"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Gain and shift of the final norm, found from what it makes of two inputs, whatever its weights are called.

    The inputs have mean 0 and mean square 1, which the norm leaves as they are but for gain and shift.
    """
    if norm is None:
        return torch.ones(width), torch.zeros(width)
    pattern = torch.tensor([1.0, -1.0]).repeat(width // 2 + 1)[:width]
    if width % 2:
        # An odd one cannot alternate: its last three entries cancel instead.
        pattern[-3:] = torch.tensor([1.0, 1.0, -2.0])
    # Large, so that the norm's epsilon is nothing beside it.
    given = (pattern * 1e3).to(like)
    with torch.no_grad():
        up, down = norm(given[None, None]).float().cpu()[0, 0], norm(-given[None, None]).float().cpu()[0, 0]
    unit = pattern / pattern.square().mean().sqrt()
    return (up - down) / 2 / unit, (up + down) / 2


def final_states(runner: Runner, prompts: Prompts, positions: Positions = None) -> Float[Tensor, "prompt n d_model"]:
    """Final hidden states, after the last norm, in float32; NaN beyond a prompt's end.

    Raises:
        InputError: a hidden state that is not finite, with the prompt and the position.
    """

    def function(batch: Batch) -> dict[str, Tensor]:
        states = gather(batch.normalized, batch.positions).float()
        bad = ~states.isfinite().all(-1)
        if batch.positions is None:
            states = states.masked_fill(~batch.real.unsqueeze(-1), torch.nan)
            bad = bad & batch.real
        return {"state": states, "bad": bad}

    found = runner.map(prompts, function, positions=positions, label="Reading final states")
    if found["bad"].any():
        prompt, place = found["bad"].nonzero()[0].tolist()
        raise InputError(
            f"The final hidden state of prompt {prompt} holds NaN or infinity (place {place} of those that are read): "
            "the model overflows or its weights are broken, and nothing can be read from it."
        )
    return found["state"]


def equal_columns(weight: Float[Tensor, "d_model vocab"]) -> Int[Tensor, " token"]:
    """Tokens whose column is exactly that of a token with a lower id: the model cannot tell them apart.

    Unused tokens often are such (never trained, or all zero). Memory is that of a few numbers a token.
    """
    generator = torch.Generator().manual_seed(0)
    marks = torch.randn(3, len(weight), generator=generator).to(weight) @ weight
    order = marks[0].float().argsort(stable=True)
    same: list[int] = []
    # Neighbours by one projection are compared by all, but for its rounding, and only then in full.
    room = 1e-5 * marks.abs().amax()
    close = ((marks[:, order[1:]] - marks[:, order[:-1]]).abs() <= room).all(0).nonzero()[:, 0]
    for place in close.tolist():
        one, other = order[place], order[place + 1]
        if torch.equal(weight[:, one], weight[:, other]):
            same.append(int(max(one, other)))
    return torch.tensor(sorted(same), dtype=torch.long)


def _uncapped(logits: Float[Tensor, "*batch"], cap: float) -> Float[Tensor, "*batch"]:
    return cap * torch.atanh((logits / cap).clamp(-1 + 1e-12, 1 - 1e-12)) if cap > 0 else logits


def _tied(module: Any, weight: Float[Tensor, "d_model vocab"], columns: Int[Tensor, " token"]) -> float | None:
    words = embedding(module)
    if words.shape[::-1] != weight.shape:
        return None
    ours, theirs = weight[:, columns].double().cpu(), words[columns].mT.double().cpu()
    factor = float((ours * theirs).sum() / ours.square().sum().clamp(min=1e-300))
    # A scale such as sqrt(d_model) is rounded once.
    close = (theirs - factor * ours).abs().max() <= 1e-2 * torch.finfo(weight.dtype).eps ** 0.5 * theirs.abs().max()
    return round(factor, 6) if bool(close) and factor != 0 else None
