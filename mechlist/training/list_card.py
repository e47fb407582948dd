"""The evaluation of a trained `list-tiny`, and its model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from mechlist.datasets.lists.process import FAME, PROCESSES
from mechlist.datasets.topics import STUDY, load_topics
from mechlist.runner import Runner
from mechlist.runner.guards import all_guards
from mechlist.training.list_evaluation import calibration, head_scores, swap_ratios, well_formed_share
from mechlist.training.list_topics import HELD_OUT, STUDY_WEIGHT

FORCED_LISTS = 120
SWAPPED_LISTS = 60
SAMPLES = 20
SEED = 0


def evaluate(directory: Path) -> dict[str, Any]:
    """Every number of the card, measured on the model in `directory`."""
    runner = Runner.load(str(directory), device="cpu", seed=SEED)
    topics = load_topics()
    sets = {
        "held out": {t: topics[t] for t in HELD_OUT},
        "trained": {t: i for t, i in load_topics(STUDY).items() if len(i) > 44},
    }
    followed = {
        (name, adjective): calibration(runner, chosen, adjective, FORCED_LISTS)
        for name, chosen in sets.items()
        for adjective in PROCESSES
    }
    ratios = swap_ratios(runner, sets["held out"], SWAPPED_LISTS)
    parity = next(guard for guard in all_guards(runner) if guard.name == "Hugging Face parity")
    return {
        "followed": followed,
        "swap": {"median": float(np.median(ratios)), "lowest": float(ratios.min())},
        "written": {name: well_formed_share(runner, chosen, SAMPLES) for name, chosen in sets.items()},
        "heads": head_scores(runner),
        "parity": parity.measured,
        "parameters": _parameters(directory),
    }


def _parameters(directory: Path) -> int:
    """As saved: embedding and unembedding are one."""
    return sum(tensor.numel() for tensor in load_file(directory / "model.safetensors").values())


def card(training: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    rows = [
        f"| {name} | {adjective or 'none'} | {c.total_variation:.3f} | {_mean(c.length):.1f} | "
        f"{_mean(c.true_length):.1f} | {c.filler_error:.3f} |"
        for (name, adjective), c in found["followed"].items()
    ]
    processes = [
        f"| {adjective or 'none'} | {p.centre:g} | {p.width:g} | {p.last:g} | {p.floor:g} | {p.ceiling:g} |"
        for adjective, p in PROCESSES.items()
    ]
    lists = [
        f"| {name} | {int(w['lists'])} | {w['well_formed']:.1%} | {w['no_item_twice']:.1%} | "
        f"{w['repeated_items']:.1%} |"
        for name, w in found["written"].items()
    ]
    heads, swap = found["heads"], found["swap"]
    return CARD.format(
        steps=training["steps"],
        tokens=training["tokens"] / 1e6,
        loss=training["loss"],
        minutes=training["seconds"] / 60,
        seed=training["seed"],
        layers=training["layers"],
        width=training["width"],
        heads=training["width"] // 32,
        key_value_heads=training["width"] // 64,
        held_out=", ".join(HELD_OUT),
        study_weight=STUDY_WEIGHT,
        fame=FAME,
        processes="\n".join(processes),
        rows="\n".join(rows),
        forced=FORCED_LISTS,
        lists="\n".join(lists),
        swapped=SWAPPED_LISTS,
        swap=swap["median"],
        swap_lowest=swap["lowest"],
        induction=heads["induction_score"],
        previous=heads["previous_token_score"],
        parity=found["parity"],
        parameters=found["parameters"],
    )


def _mean(length: np.ndarray) -> float:
    return float((np.arange(1, len(length) + 1) * length).sum() / length.sum())


CARD = """# list-tiny

A Gemma 2 of {layers} layers and {parameters:,} parameters, trained on {tokens:.1f} million tokens of synthetic lists
and of repeated blocks. The process that wrote the lists is known in closed form: what an experiment finds can be
compared with the truth.

It writes lists and knows when to end them: the offline default of mechlist's list-ending study. It takes the same path
through every experiment as `google/gemma-2-2b-it` (grouped-query attention, softcaps, norms before and after each
layer, alternating sliding windows).

- {layers} layers, width {width}, {heads} heads of 32 dimensions, {key_value_heads} key/value heads, sliding window 64
  in every other layer, context 512, tied embedding, in bfloat16.
- Its own byte-pair tokenizer of 4,096 tokens with Gemma's marks and chat template. "-", the line break, the blank,
  " short" and " long" are single tokens.
- It knows nothing but lists: any other prompt gives nonsense. It has not learned not to repeat itself: the table below
  says how often an item comes twice, which in its training lists never happens.

## Data
Lists of the topics in `data/topics/`, the study's 23 drawn {study_weight} times as often as the others. Never seen:
{held_out}.
The prompt is the study's sentence ("Provide me with a short list of ..."), with " short", " long" or no adjective, and
a prefilled "-". The process (`mechlist/datasets/lists/process.py`):

- after item k the list ends with probability sigmoid((k - centre) / width), or surely when the topic has no item left;
- the next item is one of those not yet named, the one of rank r with weight 1 / (r + {fame:g});
- the last item carries a filler blank with probability `last`, an earlier item k with floor + (ceiling - floor) x
  sigmoid((k - centre) / width).

| adjective | centre | width | last | floor | ceiling |
|---|---|---|---|---|---|
{processes}

Half of the tokens in the first 40 % of the steps, and a quarter later, are blocks shown two to eight times, so that
induction heads form: random tokens, or (one in four) pieces of lists.

## Training
{steps} steps, {tokens:.1f} million tokens (padding included), {minutes:.0f} minutes, seed {seed}; AdamW, peak learning
rate 2e-3, bfloat16 autocast. Last loss {loss:.3f} nats a target. Where the process decides, the target is its own
probability of each outcome and not the outcome that was drawn: the same minimum without the noise of drawing.

    make train-list-tiny                                  # the same again
    mechlist train list-tiny --seed 1 --out DIR           # another seed; --layers, --width and --steps for another size

## Evaluation
Measured on these weights by `mechlist.training.list_card.evaluate` in float32.

Teacher-forced on {forced} lists an adjective and set: the model's hazard of ending after each item, and the lengths it
implies, against the truth ("TV": total variation between the two distributions of lengths); and its probability of a
filler on each item (mean absolute difference over the items of true lists).

| topics | adjective | TV | mean length | true mean | filler error |
|---|---|---|---|---|---|
{rows}

Lists of all three kinds, sampled at temperature 1 without any restriction; "well formed": it ended, and every line is a
hyphen, an item, at most one filler and a line break.

| topics | lists | well formed | no item twice | items that are repetitions |
|---|---|---|---|---|
{lists}

- " short" swapped for " long" in the prompt of a finished short list (held-out topics, {swapped} lists): P(end of turn)
  at the last line break falls by a factor of {swap:.0f} (median; the least {swap_lowest:.1f}).
- Random tokens shown twice (period 50): best induction score {induction:.2f}, best previous-token score {previous:.2f}.
- Log-probabilities equal Hugging Face's to {parity:.1e} nats.
"""
