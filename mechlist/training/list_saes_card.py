"""How good the SAEs of `list-tiny` are, and the card that says so."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.list_set import ListSet
from mechlist.datasets.lists.made import well_known_lists
from mechlist.datasets.lists.prompts import ADJECTIVES, list_prompts
from mechlist.datasets.topics import STUDY, load_topics
from mechlist.decode import Sampling
from mechlist.experiments.list_experiment import sample_lists
from mechlist.runner import Runner
from mechlist.sae.load import load_sae, places
from mechlist.sae.transfer import cross_entropy, reconstruction
from mechlist.training.list_topics import HELD_OUT

TARGETS = {"l0": 32.0, "ce_recovered": 0.95, "dead": 0.2}
"""At most, at least, at most."""


def held_out_lists(runner: Runner) -> ListSet:
    """Lists that list-tiny writes about topics that it never saw.

    Of given items of such topics it knows nothing: no SAE could lose much of a cross-entropy that is close to chance.
    """
    prompts = list_prompts(runner.tokenizer, HELD_OUT, ADJECTIVES)
    special = list_tokens(runner.tokenizer)
    return sample_lists(runner, prompts, special, sampling=Sampling(), samples=1, max_new_tokens=200)


def trained_lists(runner: Runner) -> ListSet:
    """Short, long and other lists of topics that list-tiny was trained on."""
    names = [name for name in load_topics(STUDY) if name not in HELD_OUT][: len(HELD_OUT)]
    return well_known_lists(runner.tokenizer, names, at_most=1, items=8)


def evaluate(runner: Runner, folder: Path, dead: Sequence[float]) -> list[dict[str, Any]]:
    """The numbers of the card, of each SAE as it is saved; all tokens but BOS. Held-out topics unless it says so."""
    out = []
    data = {"held out": held_out_lists(runner), "trained": trained_lists(runner)}
    for place, share in zip(places([str(folder)]), dead, strict=True):
        sae = load_sae(place, device=str(runner.language_model.device))
        made, lost = {}, {}
        for name, lists in data.items():
            where = torch.arange(lists.tokens.shape[1])
            counted: Bool[Tensor, "list position"] = (where > 0) & (where < lists.lengths[:, None])
            made[name] = reconstruction(runner, sae, lists.rows, counted)
            lost[name] = cross_entropy(runner, sae, lists.rows, counted, lists.scored).recovered
        out.append(
            {
                "hook": sae.hook,
                "l0": made["held out"].l0,
                "explained_variance": made["held out"].explained_variance,
                "ce_recovered": lost["held out"],
                "explained_variance_trained": made["trained"].explained_variance,
                "ce_recovered_trained": lost["trained"],
                "dead": share,
            }
        )
    return out


def meets_targets(one: dict[str, Any]) -> bool:
    """Whether an SAE is good enough to be shipped."""
    return (
        one["l0"] <= TARGETS["l0"] and one["ce_recovered"] >= TARGETS["ce_recovered"] and one["dead"] <= TARGETS["dead"]
    )


def card(width: int, seconds: float, found: Sequence[dict[str, Any]], *, made: str, dead: int) -> str:
    """The card in Markdown.

    Args:
        width: features of each SAE.
        seconds: of training.
        found: what `evaluate` gave.
        made: from how much and which data.
        dead: tokens without activation after which a feature counts as dead.
    """
    rows = "\n".join(
        f"| `{one['hook']}` | {one['l0']:.1f} | {one['explained_variance']:.3f} | {one['ce_recovered']:.3f} | "
        f"{one['explained_variance_trained']:.3f} | {one['ce_recovered_trained']:.3f} | {one['dead']:.1%} | "
        f"{'yes' if meets_targets(one) else 'no'} |"
        for one in found
    )
    what = (
        f"TopK SAEs of {width} features on the residual stream after each layer, trained with sae_lens (`mechlist "
        f"train list-saes`): {made}, {seconds / 60:.0f} minutes on two cores; in bfloat16."
    )
    return f"""# SAEs for list-tiny

{textwrap.fill(what, 120)}

Measured as saved, on all tokens but BOS: of lists that list-tiny writes about topics that it never saw
({", ".join(HELD_OUT)}),
and of lists of well-known items of topics that it was trained on. Cross-entropy is that of the lists' tokens, and what
is recovered sae_lens's `ce_loss_score`: 1 where the splice loses nothing, 0 where it loses as much as setting the
activation to 0. Dead: not active in the last {dead} tokens of training.

| hook | L0 | explained variance | recovered | explained, trained topics | recovered, trained | dead | on target |
|---|---|---|---|---|---|---|---|
{rows}

Targets, on topics that were held out: L0 at most {TARGETS["l0"]:.0f}, cross-entropy recovered at least
{TARGETS["ce_recovered"]}, dead features at most {TARGETS["dead"]:.0%}. {_verdict(found)}
"""


def _verdict(found: Sequence[dict[str, Any]]) -> str:
    missed = [one["hook"].split(".")[1] for one in found if not meets_targets(one)]
    if not missed:
        return "All SAEs meet them."
    return f"Those after layers {', '.join(missed)} miss them: on topics like these, run sae-transfer first."
