"""The first look at pairs of prompts: rank, logit and probability of both answers in both runs, before anything else.

It is said at the start of a run, saved with its results under names that begin with `look_`, and told in its report.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from mechlist import effort
from mechlist.datasets.pairs.pair import Pair
from mechlist.runner import Batch, Runner
from mechlist.text import visible

RUNS, TOKENS = ("clean", "corrupt"), ("answer", "wrong")
LOOK = "look"
"""Name of the table."""
CAPTION = {LOOK: "what the model itself makes of the prompts; a rank of 1 is the most probable token"}
SHOWN = 3
"""Pairs that are said; the rest is summed up."""
BEGINNING, END = 46, 25
"""Letters of a prompt that are shown of a long one."""
_COPIES = 4
"""Of the logits that stand at a time: themselves, their exponentials, and which are larger than either answer's."""


def look_at(runner: Runner, pairs: Sequence[Pair]) -> xr.Dataset:
    """What the model makes of both answers at the end of both prompts of every pair, in one pass; said on stderr.

    Returns:
        `look_rank` (1 for the most probable token), `look_logit` and `look_probability`, each by prompt, `look_run`
        and `look_token`; the prompts (`look_prompt`) and the answers (`look_text`) as labels.
    """
    asked = torch.tensor([[pair.answer, pair.wrong] for pair in pairs for _ in RUNS])
    rows = [list(getattr(pair, run)) for pair in pairs for run in RUNS]

    def function(batch: Batch) -> dict[str, Tensor]:
        logits = batch.logits()[:, 0].float()
        own = logits.gather(1, asked.to(logits.device)[batch.rows.index.to(logits.device)])
        ranks = torch.stack([1 + (logits > one[:, None]).sum(1) for one in own.unbind(1)], dim=1)
        return {"rank": ranks, "logit": own, "probability": (own - logits.logsumexp(1, keepdim=True)).exp()}

    found = runner.map(
        rows,
        function,
        positions=-1,
        row_bytes=lambda *_: 4 * _COPIES * runner.shape.d_vocab_out,
        label=effort.ASIDE,
    )
    dims = ("prompt", "look_run", "look_token")
    units = {"logit": "logits", "probability": "probability", "rank": "rank"}
    shape = (len(pairs), len(RUNS), len(TOKENS))
    results = xr.Dataset(
        {f"look_{name}": (dims, found[name].reshape(shape).numpy(), {"units": unit}) for name, unit in units.items()},
        {"look_run": list(RUNS), "look_token": list(TOKENS)},
    )
    prompts = [_label(runner, row) for row in rows]
    texts = [visible(text) for pair in pairs for text in runner.token_texts([pair.answer, pair.wrong])]
    results["look_prompt"] = (dims[:2], np.array(prompts).reshape(shape[:2]))
    results["look_text"] = (("prompt", "look_token"), np.array(texts).reshape(len(pairs), len(TOKENS)))
    if runner.progress:
        print("\n".join(look_lines(results)), file=sys.stderr, flush=True)
    return results


def look_lines(results: xr.Dataset) -> list[str]:
    """The first pairs in a few lines each, and all of them in a sentence."""
    total = results.sizes[_axis(results)]
    lines = []
    for n in range(min(SHOWN, total)):
        at = results.isel({_axis(results): n})
        lines.append(f"Pair {n + 1} of {total}" if total > 1 else "The prompts, before anything is changed")
        for run in RUNS:
            own = at.sel(look_run=run)
            answers = [_answer(own.sel(look_token=token)) for token in TOKENS]
            lines.append(f"  {run:<8}{own['look_prompt'].item()}")
            lines += [f"          {token:<7} {said}" for token, said in zip(TOKENS, answers, strict=True)]
    return [*lines, *look_findings(results)] if total > 1 else lines


def look_table(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Both runs of every pair; nothing for results of a version that did not look."""
    if "look_rank" not in results:
        return {}
    total = results.sizes[_axis(results)]
    columns: dict[str, Any] = {
        "pair": np.repeat(np.arange(total) + 1, len(RUNS)),
        "run": list(RUNS) * total,
        "prompt": results["look_prompt"].values.ravel(),
    }
    for n, token in enumerate(TOKENS):
        columns[token] = np.repeat(results["look_text"].values[:, n], len(RUNS))
        for name in ("rank", "logit", "probability"):
            columns[f"{token} {name}"] = results[f"look_{name}"].values[..., n].ravel()
    return {LOOK: pd.DataFrame(columns)}


def look_findings(results: xr.Dataset) -> list[str]:
    """What the model itself makes of the prompts, in one sentence; none for results of a version that did not look."""
    if "look_rank" not in results:
        return []
    axis = _axis(results)
    total = results.sizes[axis]
    rank, share = (
        results[f"look_{name}"].transpose(axis, "look_run", "look_token") for name in ("rank", "probability")
    )
    if total == 1:
        names = [repr(text) for text in results["look_text"].values[0].tolist()]
        (a, b), (c, d) = (
            [
                f"rank {r} ({p:.1%})"
                for r, p in zip(rank.values[0, run].tolist(), share.values[0, run].tolist(), strict=True)
            ]
            for run in range(len(RUNS))
        )
        return [
            f"By itself the model gives {names[0]} {a} and {names[1]} {b} after the clean prompt, and {c} and {d} "
            "after the corrupt one."
        ]
    logit = results["look_logit"].transpose(axis, "look_run", "look_token").values
    (ahead, behind), (first, later) = ((logit[..., 0] > logit[..., 1]).sum(0), (rank.values[..., 0] == 1).sum(0))
    (answer, other), (wrong, right) = share.mean(axis).transpose("look_token", "look_run").values.tolist()
    return [
        f"By itself the model puts the answer ahead of the wrong one after {ahead} of {total} clean prompts and after "
        f"{behind} of {total} corrupt ones, and first of all tokens after {first} and {later}; its mean probability is "
        f"{answer:.1%} and {other:.1%}, the wrong one's {wrong:.1%} and {right:.1%}."
    ]


def _answer(of: xr.Dataset) -> str:
    return (
        f"{of['look_text'].item()!r}: rank {int(of['look_rank'])}, logit {float(of['look_logit']):.2f}, "
        f"{float(of['look_probability']):.1%}"
    )


def _label(runner: Runner, row: Sequence[int]) -> str:
    """A prompt as a label, cut in the middle where it is long; of a model without tokenizer, its numbers."""
    between = "" if runner.tokenizer is not None else " "
    long = len(row) > BEGINNING + END
    parts = [row[:BEGINNING], row[-END:]] if long else [row]
    texts = [visible(between.join(runner.token_texts(part))) for part in parts]
    if not long and len(texts[0]) <= BEGINNING + 1 + END:
        return texts[0]
    return f"{texts[0][:BEGINNING]}…{texts[-1][-END:]}"


def _axis(results: xr.Dataset) -> str:
    """The axis of the pairs: `prompt`, or `list` where an experiment is on lists as well."""
    return str(results["look_rank"].dims[0])
