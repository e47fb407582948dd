"""What each lens reads at every stage and position, and how far that is from the model's own prediction."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechlist.lens.logit_lens import Translate, final_norm, stage_hooks
from mechlist.metrics.statistics import bootstrap_interval
from mechlist.runner import Batch, Runner
from mechlist.runner.batching import Prompts

COPIES = 6
"""Of a piece's logits: two distributions, their logarithms, what is made of them, and their order."""
WINDOW = 10
"""Tokens that follow, among which the token that a lens reads is sought."""


def read(runner: Runner, prompts: Prompts, lenses: Mapping[str, Translate], top: int) -> xr.Dataset:
    """Most probable tokens, and KL(model || lens) in nats, by prompt, position, lens and stage.

    Beyond a prompt's end, and at stages that a lens lacks, tokens are -1 and numbers NaN.
    """
    hooks, norm, names = stage_hooks(runner), final_norm(runner), list(lenses)

    def function(batch: Batch) -> dict[str, Tensor]:
        real = batch.real
        streams = {hook: batch[hook][real] for hook in hooks}
        shape = (len(names), len(hooks))
        parts: dict[str, list[Tensor]] = {"token": [], "probability": [], "kl": []}
        size = max(1, batch.chunk_bytes // (4 * COPIES * runner.shape.d_vocab_out))
        for piece in torch.arange(int(real.sum()), device=real.device).split(size):
            own = runner.language_model.unembed(batch.normalized[real][piece]).float().log_softmax(-1)
            cells = [
                _compared(runner, own, norm(translate(stage, streams[hook][piece])), top)
                for translate in lenses.values()
                for stage, hook in enumerate(hooks)
            ]
            for name, values in zip(parts, zip(*cells, strict=True), strict=True):
                parts[name].append(torch.stack(values, dim=1).unflatten(1, shape))
        return {name: _placed(torch.cat(values), real) for name, values in parts.items()}

    width = len(names) * len(hooks) * (12 * top + 4) + 8 * runner.shape.d_model
    found = runner.map(
        prompts, function, capture=hooks, row_bytes=lambda length, _: length * width, label="Reading stages"
    )
    dims = ("prompt", "position", "lens", "stage")
    return xr.Dataset(
        {
            "top_token": ((*dims, "rank"), found["token"].numpy()),
            "top_probability": ((*dims, "rank"), found["probability"].numpy()),
            "kl": (dims, found["kl"].numpy(), {"units": "nats"}),
        },
        coords={"lens": names, "stage": np.arange(len(hooks)), "rank": 1 + np.arange(top)},
    )


def fidelity(
    runner: Runner,
    texts: Sequence[Tensor],
    lenses: Mapping[str, Translate],
    skip: int,
    generator: np.random.Generator,
) -> xr.Dataset:
    """How near each lens is to the model on texts that it was not fitted on, with intervals over texts.

    `fit_kl` is the mean KL(model || lens) over positions; `said` the share of positions at which the lens's most
    probable token is one of the text's own next `WINDOW` tokens, which a lens for what is said later can raise where
    the next token alone does not show it.
    """
    found = read(runner, texts, lenses, 1)
    kl, token = found["kl"].values, found["top_token"].values[..., 0]
    lengths = [len(text) for text in texts]
    by_text = {name: np.full((len(texts), *kl.shape[2:]), np.nan) for name in ("fit_kl", "said")}
    for n, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        places = slice(skip, length - 1)
        by_text["fit_kl"][n] = kl[n, places].mean(axis=0)
        follow = [set(text[at + 1 : at + 1 + WINDOW].tolist()) for at in range(skip, length - 1)]
        hits = [np.isin(token[n, at], list(later)) for at, later in zip(range(skip, length - 1), follow, strict=True)]
        missing = np.isnan(kl[n, skip])
        by_text["said"][n] = np.where(missing, np.nan, np.mean(hits, axis=0))
    out = xr.Dataset(coords={"lens": found["lens"], "stage": found["stage"]})
    for name, values in by_text.items():
        low, high = bootstrap_interval(values, generator=generator)
        units = {"units": "nats" if name == "fit_kl" else "share of positions"}
        out[name] = (("lens", "stage"), values.mean(axis=0), units)
        out[f"{name}_low"], out[f"{name}_high"] = (("lens", "stage"), low), (("lens", "stage"), high)
    return out


def _compared(runner: Runner, own: Tensor, normalized: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and probabilities of one reading, and its divergence from the model's own log-probabilities."""
    if not bool(normalized.isfinite().all()):
        # A stage that the lens lacks.
        size = (len(own), top)
        missing = torch.full(size, torch.nan, device=own.device)
        return torch.full(size, -1, device=own.device), missing, missing[:, 0]
    log_probs = runner.language_model.unembed(normalized).float().log_softmax(-1)
    best = log_probs.topk(top, dim=-1)
    gap = torch.where(own.isneginf(), 0.0, own.exp() * (own - log_probs))
    return best.indices, best.values.exp(), gap.sum(-1)


def _placed(values: Tensor, real: Tensor) -> Tensor:
    """Values of real tokens at their places, row by row."""
    empty = torch.nan if values.is_floating_point() else -1
    out = torch.full((*real.shape, *values.shape[1:]), empty, dtype=values.dtype, device=values.device)
    out[real] = values
    return out
