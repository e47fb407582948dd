"""From the features of one SAE to those of a later one: attribution of a feature's activation, and what ablation does.

The model itself is between the two, with no other SAE in it, so nothing but the earlier SAE's other features has to be
held where it is: to first order feature i of the earlier one gets f_i (W_dec_i . g), where g is the gradient of the
later feature's activation at the earlier hook (Marks et al. 2024, arXiv 2403.19647).
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.language_model import Hook
from mechlist.patching.gradients.gradient import differentiable, require_gradients
from mechlist.runner import Runner
from mechlist.sae.ablation import without_features
from mechlist.sae.attribution import Site
from mechlist.sae.sae import Sae, flat


@torch.inference_mode(mode=False)
def upstream(
    runner: Runner, earlier: str, later: Sae, feature: int, rows: Sequence[Int[Tensor, " _"]], position: Sequence[int]
) -> Site:
    """Activation at the earlier hook, and there the gradient of the later feature's activation at one position each.

    Args:
        runner: with the model; the rows go through it one by one.
        earlier: hook.
        later: SAE of the feature.
        feature: whose activation is asked about.
        rows: prompts.
        position: of the feature in each.

    Raises:
        InputError: the later hook does not depend on the earlier one.
    """
    require_gradients(runner.language_model)
    width = max(len(row) for row in rows)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for row, at in zip(rows, position, strict=True):
        kept: dict[str, Tensor] = {}
        hooks: list[Hook] = [(earlier, partial(_leaf, kept)), (later.hook, partial(_seen, kept, later.hook))]
        with differentiable(runner.language_model.module):
            runner.language_model.residual(row[None].clone().to(runner.language_model.device), hooks)
            value = later.module.encode(flat(kept[later.hook])[0, at][None].to(later.decoder))[0, feature]
            if not value.requires_grad or "leaf" not in kept:
                raise InputError(f"{later.hook} must come after {earlier} in the model.")
            (gradient,) = torch.autograd.grad(value, kept["leaf"])
        for own, found in zip(parts, (kept["leaf"].detach(), gradient), strict=True):
            own.append(torch.nn.functional.pad(flat(found)[0].cpu(), (0, 0, 0, width - len(row))))
    return Site(torch.stack(parts[0]), torch.stack(parts[1]))


def activation_without(
    runner: Runner,
    earlier: Sae,
    features: Sequence[int],
    later: Sae,
    feature: int,
    rows: Sequence[Int[Tensor, " _"]],
    position: Sequence[int],
    counted: Bool[Tensor, "prompt position"],
) -> Float[Tensor, "ablation prompt"]:
    """The later feature's activation minus that with one of the earlier features at 0 where positions count."""
    x = flat(runner.capture(rows, earlier.hook)[earlier.hook])
    device, every = earlier.decoder.device, torch.arange(len(rows))

    def read() -> Tensor:
        found = flat(runner.capture(rows, later.hook)[later.hook])[every, list(position)]
        return later.encode(found.to(later.decoder.device))[:, feature].float().cpu()

    base, out = read(), []
    for number in features:
        size = torch.zeros(counted.shape)
        for i, row in enumerate(rows):
            at = counted[i, : len(row)].nonzero()[:, 0]
            size[i, at] = earlier.encode(x[i, at].to(device))[:, number].float().cpu()
        with runner.intervene(without_features(earlier, torch.full((len(rows),), number), size)):
            out.append(base - read())
    return torch.stack(out)


def _leaf(kept: dict[str, Tensor], activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    kept["leaf"] = activation.detach().requires_grad_()
    return kept["leaf"]


def _seen(kept: dict[str, Tensor], name: str, activation: Tensor, hook: object) -> Tensor:  # noqa: ARG001
    kept[name] = activation
    return activation
