"""How well `list-tiny` follows the process that wrote its training lists; teacher-forced, against sampling noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechlist.datasets.chat import list_tokens
from mechlist.datasets.lists.parse import ListTokens, parse_list, well_formed
from mechlist.datasets.lists.process import PROCESSES, ListProcess, draw_items, length_of
from mechlist.datasets.lists.prompts import list_prompt
from mechlist.datasets.repeated import repeated_tokens
from mechlist.decode import generate
from mechlist.metrics.attention import all_head_scores
from mechlist.runner import Runner
from mechlist.runner.batch import Batch

Topics = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Calibration:
    """Ends and fillers after item k = 1, 2, ..., by the model and by the process."""

    hazard: Float[np.ndarray, " item"]
    """Probability that the model ends the list after item k, given that it got there."""
    true_hazard: Float[np.ndarray, " item"]
    filler: Float[np.ndarray, " item"]
    """Probability of a filler on item k, against that of a line break right after the item."""
    true_filler: Float[np.ndarray, " item"]

    @property
    def length(self) -> Float[np.ndarray, " item"]:
        """Distribution of the number of items that the model's hazard implies."""
        return length_of(self.hazard)

    @property
    def true_length(self) -> Float[np.ndarray, " item"]:
        """The same for the process."""
        return length_of(self.true_hazard)

    @property
    def total_variation(self) -> float:
        """Between the implied and the true distribution of lengths; what lies beyond the last item is one outcome."""
        model, true = self.length, self.true_length
        return float(np.abs(model - true).sum() + abs(model.sum() - true.sum())) / 2

    @property
    def filler_error(self) -> float:
        """Mean absolute difference of the filler probability, over the items of a list that the process writes."""
        reached = np.concatenate([[1.0], np.cumprod(1 - self.true_hazard[:-1])])
        return float((reached * np.abs(self.filler - self.true_filler)).sum() / reached.sum())


@dataclass(frozen=True)
class ForcedList:
    """A list that goes on as long as its topic does, with fillers as on items that are not the last."""

    tokens: list[int]
    contents: list[int]
    """Position of the last token of each item."""
    breaks: list[int]
    """Position of the line break after each item."""
    fillers: list[bool]


def calibration(runner: Runner, topics: Topics, adjective: str, lists: int, items: int = 44) -> Calibration:
    """Read what the model expects after every item of `lists` lists that do not end, taking the topics in turn.

    After item k the process's hazard depends on whether the item has a filler. So the model's is averaged over the
    lists with one and over those without, and these two with the process's own share of fillers.

    Args:
        runner: with a model that has the special tokens of lists.
        topics: items by topic, each more than `items`.
        adjective: of the prompts, and of the process.
        lists: how many.
        items: items of each list.
    """
    process, generator = PROCESSES[adjective], np.random.default_rng(runner.seed)
    special, names = list_tokens(runner.tokenizer), list(topics)
    forced = []
    for i in range(lists):
        topic = names[i % len(names)]
        prompt = list_prompt(runner.tokenizer, topic, adjective).tokens
        forced.append(_force(runner, process, prompt, topics[topic], special, items, generator))
    ends, fillers = _expected(runner, forced, special)
    seen = np.array([f.fillers for f in forced])
    capacity = items + 1  # One item more than is looked at, so that no list has to end.
    true_filler = process.filler(capacity)[:items]
    return Calibration(_mixed(ends, seen, true_filler), process.hazard(capacity)[:items], fillers.mean(0), true_filler)


def swap_ratios(runner: Runner, topics: Topics, lists: int) -> Float[np.ndarray, " list"]:
    """P(end of turn) after a finished short list, over the same with " long" in the prompt."""
    generator, special = np.random.default_rng(runner.seed), list_tokens(runner.tokenizer)
    process, names = PROCESSES["short"], list(topics)
    sequences: list[list[int]] = []
    for i in range(lists):
        items = topics[names[i % len(names)]]
        n_items, fillers = process.draw(len(items), generator)
        written: list[int] = []
        for rank, filler in zip(draw_items(len(items), n_items, generator), fillers, strict=True):
            line = _encode(runner, items[rank])
            written += [special.hyphen, *line, *([special.blank] if filler else []), special.line_break]
        for adjective in ("short", "long"):
            prompt = list_prompt(runner.tokenizer, names[i % len(names)], adjective).tokens
            sequences.append([*prompt, *written[1:]])
    column = torch.tensor([special.end_of_turn])

    def ending(batch: Batch) -> dict[str, Tensor]:
        return {"p": batch.logits().softmax(-1)[:, -1, column.to(batch.tokens.device)]}

    p = runner.map(sequences, ending, positions=-1, label="Swapping adjectives")["p"].double().numpy()
    return p[0::2, 0] / p[1::2, 0]


def well_formed_share(runner: Runner, topics: Topics, samples: int) -> dict[str, float]:
    """Shares of sampled lists (temperature 1, everything allowed) that are well formed, and without an item twice."""
    special = list_tokens(runner.tokenizer)
    prompts = [list_prompt(runner.tokenizer, topic, a).tokens for topic in topics for a in PROCESSES]
    room = runner.shape.n_ctx - max(map(len, prompts))
    written = generate(runner, prompts, max_new_tokens=min(300, room), samples=samples, stop_tokens=special.ends)
    completions = [(special.hyphen, *c.tokens) for of_prompt in written for c in of_prompt]
    good = [well_formed(c, special) for c in completions]
    items = [[tuple(c[i] for i in item.content) for item in parse_list(c, special).items] for c in completions]
    return {
        "well_formed": float(np.mean(good)),
        "no_item_twice": float(np.mean([len(set(i)) == len(i) for i in items])),
        "repeated_items": float(1 - sum(len(set(i)) for i in items) / max(1, sum(map(len, items)))),
        "lists": float(len(completions)),
    }


def head_scores(runner: Runner, period: int = 50, batch: int = 20) -> dict[str, float]:
    """The best induction score and the best previous-token score of any head, on random tokens shown twice."""
    bos = runner.bos_token_id
    tokens = repeated_tokens(batch, period, runner.shape.d_vocab, bos, runner.generator("repeated tokens"))
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(runner.shape.n_layers)]

    def scores(batch: Batch) -> dict[str, Tensor]:
        found = [all_head_scores(batch[hook], period, bos is not None) for hook in hooks]
        names = ("induction_score", "previous_token_score")
        return {name: torch.stack([f[name].strict for f in found], dim=1) for name in names}

    means = {name: value.mean(0) for name, value in runner.map(tokens, scores, capture=hooks).items()}
    return {name: float(value.max()) for name, value in means.items()}


def _force(
    runner: Runner,
    process: ListProcess,
    prompt: Sequence[int],
    items: Sequence[str],
    special: ListTokens,
    n_items: int,
    generator: np.random.Generator,
) -> ForcedList:
    fillers = (generator.random(n_items) < process.inner_filler(n_items + 1)[:n_items]).tolist()
    tokens, contents, breaks = list(prompt), [], []
    for rank, filler in zip(draw_items(len(items), n_items, generator), fillers, strict=True):
        tokens += _encode(runner, items[rank])
        contents.append(len(tokens) - 1)
        tokens += [special.blank, special.line_break] if filler else [special.line_break]
        breaks.append(len(tokens) - 1)
        tokens.append(special.hyphen)
    return ForcedList(tokens, contents, breaks, fillers)


def _expected(
    runner: Runner, forced: Sequence[ForcedList], special: ListTokens
) -> tuple[Float[np.ndarray, "list item"], Float[np.ndarray, "list item"]]:
    """Probability of the end at every line break, and of a filler after every item."""
    positions = torch.tensor([f.breaks + f.contents for f in forced])
    wanted = torch.tensor([special.end_of_turn, special.blank, special.line_break])

    def function(batch: Batch) -> dict[str, Tensor]:
        return {"p": batch.logits().softmax(-1)[..., wanted.to(batch.tokens.device)]}

    n_items = len(forced[0].breaks)
    p = runner.map([f.tokens for f in forced], function, positions=positions, label="Reading lists")["p"].double()
    blank, line_break = p[:, n_items:, 1], p[:, n_items:, 2]
    return p[:, :n_items, 0].numpy(), (blank / (blank + line_break)).numpy()


def _mixed(
    ends: Float[np.ndarray, "list item"], seen: Bool[np.ndarray, "list item"], share: Float[np.ndarray, " item"]
) -> Float[np.ndarray, " item"]:
    """Means over lists with and without a filler at the item, weighted with the true share of fillers."""
    with_, without = seen.sum(0), (~seen).sum(0)
    weight = np.where(with_ == 0, 0.0, np.where(without == 0, 1.0, share))
    means = [(ends * chosen).sum(0) / np.maximum(n, 1) for chosen, n in ((seen, with_), (~seen, without))]
    return weight * means[0] + (1 - weight) * means[1]


def _encode(runner: Runner, text: str) -> list[int]:
    return runner.tokenizer.encode(text, add_special_tokens=False)
