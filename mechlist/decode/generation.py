"""Many completions of many prompts at once, with a key/value cache; what one prompt gets depends on it alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.decode.heads import Edit, edited_decoder
from mechlist.decode.rules import LogitRule, ruled
from mechlist.decode.sampling import BLOCK_BYTES, SORTED_COPIES, Sampling
from mechlist.errors import InputError, MechlistError
from mechlist.models.decoding import Decoder
from mechlist.models.language_model import LanguageModel
from mechlist.runner import Runner
from mechlist.runner.batching import Prompts
from mechlist.runner.progress import part_done
from mechlist.types import format_bytes

CPU_ROWS = 128
GPU_ROWS = 1024
"""Rows beyond which a batch is no faster."""
LOGITS_COPIES = 4
"""The logits of a step, as a rule changed them, and their logarithms with what these are made of."""
KEPT = 0.75
"""Rows that stopped leave the batch when no more than this share of it goes on."""


@dataclass(frozen=True)
class Completion:
    """What follows a prompt."""

    tokens: tuple[int, ...]
    """With the stop token, if there was one."""
    log_probs: tuple[float, ...]
    """Of each token, in nats, by the model itself (temperature 1, all tokens allowed)."""
    stopped: bool
    """Whether it ends with a stop token, and not at the limit of tokens."""


def generate(
    runner: Runner,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    samples: int = 1,
    sampling: Sampling | None = None,
    stop_tokens: Sequence[int] = (),
    edit: Edit | None = None,
    rule: LogitRule | None = None,
    label: str = "Generating",
) -> list[list[Completion]]:
    """Completions by prompt and sample.

    Each sample of a prompt has random numbers of its own, which follow from the Runner's seed, the rules of sampling,
    the prompt's tokens and the number of the sample. Other prompts and the size of batches change nothing, unless a
    number falls within float rounding of the border between two tokens. Neither does `edit` change them: a completion
    with a change is drawn with the numbers of the one without, so that the two differ by what the change does.

    Rows of prompts of equal length run together; rows that stop leave the batch. Finished batches are in the run's
    journal, so that a killed run goes on.

    Args:
        runner: model, memory bound and seed.
        prompts: one prompt or several: texts, token ids, or what a Hugging Face tokenizer gives.
        max_new_tokens: limit of each completion.
        samples: completions of each prompt.
        sampling: how tokens are chosen; drawn from the model's whole distribution by default.
        stop_tokens: any of them ends a completion.
        edit: heads, or activations at hooks, that are changed.
        rule: changes the logits before a token is chosen; log-probabilities stay those of the model itself.
        label: what the progress bar says.

    Raises:
        InputError: prompts the model cannot take, or that leave no room for `max_new_tokens` in the context; a stop
            token outside the vocabulary; a memory bound too small for one row; an intervention that is in place; heads
            that the model does not have; a rule that leaves no token.
    """
    sampling = sampling or Sampling()
    shape = runner.shape
    rows = runner.rows(prompts)
    _check(runner, rows, max_new_tokens, samples, stop_tokens)
    if edit is not None:
        edit.check((shape.n_layers, shape.n_heads), rows)
    row_of = [i for i in range(len(rows)) for _ in range(samples)]
    work = Generation(
        runner.language_model,
        [rows[i] for i in row_of],
        sampling,
        max_new_tokens,
        tuple(stop_tokens),
        [_seed(f"{runner.seed}/{sampling.name}/{n % samples}", rows[i]) for n, i in enumerate(row_of)],
        edit,
        None if edit is None or edit.donors is None else [torch.tensor(edit.donors[i]) for i in row_of],
        rule,
    )
    plan = _plan([len(r) for r in work.prompts], _most_rows(runner, rows, max_new_tokens, work.donors is not None))
    asked = f"{sampling.name} {max_new_tokens} {tuple(stop_tokens)} {runner.seed} {samples} {plan}"
    asked += "".join(f" {change.name}" for change in (edit, rule) if change is not None)
    found = runner.execute(work, plan, asked, label)
    completions = [_completion(*row, work.stop_tokens) for row in zip(found["tokens"], found["log_prob"], strict=True)]
    return [completions[i * samples : (i + 1) * samples] for i in range(len(rows))]


@dataclass(frozen=True)
class Generation:
    """One completion for every row; a row is a sample of a prompt."""

    model: LanguageModel
    prompts: Sequence[Tensor]
    sampling: Sampling
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    seeds: Sequence[int] = field(repr=False)
    edit: Edit | None = None
    donors: Sequence[Tensor] | None = None
    """Of every row, for an edit that swaps."""
    rule: LogitRule | None = None

    @torch.no_grad()
    def compute(self, members: list[int]) -> dict[str, Tensor]:
        """Tokens (-1 after the end) and log-probabilities (NaN) of the rows `members`, which are equally long."""
        device = self.model.device
        uniform = torch.stack([self._uniform(i) for i in members])
        tokens = torch.full((len(members), self.max_new_tokens), -1)
        log_probs = torch.full((len(members), self.max_new_tokens), torch.nan)
        stop = torch.tensor(self.stop_tokens, dtype=torch.long)
        active = torch.arange(len(members))
        going = torch.ones(len(members), dtype=torch.bool)
        decoder, final = self._read(members)
        for step in range(self.max_new_tokens):
            logits = self.model.unembed(final).float()
            if logits.isnan().any():
                raise MechlistError(
                    "The model's logits are no numbers after a prompt: its activations are too large for "
                    f"{str(self.model.dtype).removeprefix('torch.')}; take --dtype float32 or bfloat16."
                )
            told = logits if self.rule is None else ruled(self.rule, logits, tokens[active, :step], going)
            chosen = self.sampling.choose(told, uniform[active, step])
            log_prob = logits.log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]
            written = active[going]
            picked = chosen.cpu()
            tokens[written, step], log_probs[written, step] = picked[going], log_prob.cpu()[going]
            going = going & ~torch.isin(picked, stop)
            if step + 1 == self.max_new_tokens or not going.any():
                break
            part_done((step + 1) / self.max_new_tokens)
            # To leave out a row copies the cache: worth it for several at once.
            if going.sum() <= KEPT * len(going):
                kept = going.nonzero()[:, 0].to(device)
                decoder.keep(kept)
                active, chosen, going = active[going], chosen[kept], going[going]
            final = decoder.feed(chosen[:, None])
        return {"tokens": tokens, "log_prob": log_probs}

    def _read(self, members: list[int]) -> tuple[Decoder, Float[Tensor, "row d_model"]]:
        """The prompts read; samples of one prompt read it once."""
        device = self.model.device
        parts = [self.prompts] if self.donors is None else [self.prompts, self.donors]
        prompts = torch.stack([torch.cat([part[i] for part in parts]) for i in members])
        unique, inverse = prompts.unique(dim=0, return_inverse=True)
        read = torch.cat(unique.chunk(len(parts), dim=1))
        capacity = read.shape[1] + self.max_new_tokens
        if self.edit is None:
            decoder = self.model.decoder(len(read), capacity)
        else:
            decoder = edited_decoder(self.model, len(read), capacity, self.edit)
        final = decoder.feed(read.to(device))
        if self.edit is None:
            self.model.compare(read[:1], final[:1])
        decoder.keep(inverse.to(device))
        return decoder, final[inverse.to(device)]

    def _uniform(self, row: int) -> Float[Tensor, " step"]:
        generator = torch.Generator().manual_seed(self.seeds[row])
        return torch.rand(self.max_new_tokens, generator=generator, dtype=torch.float64)


def _seed(purpose: str, prompt: Int[Tensor, " position"]) -> int:
    digest = hashlib.sha256(purpose.encode() + prompt.numpy().tobytes()).digest()
    return int.from_bytes(digest[:7], "big")


def _plan(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Batches of equally long rows, the longest first."""
    by_length: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_length.setdefault(length, []).append(i)
    return [
        members[start : start + rows]
        for _, members in sorted(by_length.items(), reverse=True)
        for start in range(0, len(members), rows)
    ]


def _most_rows(runner: Runner, prompts: Sequence[Tensor], max_new_tokens: int, paired: bool) -> int:
    """Rows that fit the memory bound at their longest: keys and values, a forward pass of the prompt, and the logits.

    Keys and values stand twice while a token is appended; logits are changed and their logarithms taken, and blocks of
    them are sorted. A row that is paired with a donor takes keys, values and forward pass twice.
    """
    shape, element = runner.shape, runner.language_model.dtype.itemsize
    longest = max(len(p) for p in prompts)
    cache = 4 * element * shape.n_layers * shape.n_key_value_heads * shape.d_head * (longest + max_new_tokens)
    logits = 4 * shape.d_vocab_out
    held = (cache + runner.forward_bytes(longest)) * (2 if paired else 1) + LOGITS_COPIES * logits
    needed = held + SORTED_COPIES * logits
    if needed > runner.memory:
        raise InputError(
            f"memory is too small: one completion needs about {format_bytes(needed)}, the bound is "
            f"{format_bytes(runner.memory)}."
        )
    most = CPU_ROWS if runner.language_model.device.type == "cpu" else GPU_ROWS
    return min(most, max(runner.memory // needed, (runner.memory - BLOCK_BYTES) // held))


def _completion(tokens: Tensor, log_probs: Tensor, stop_tokens: tuple[int, ...]) -> Completion:
    length = int((tokens >= 0).sum())
    chosen = tuple(tokens[:length].tolist())
    return Completion(chosen, tuple(log_probs[:length].tolist()), bool(chosen) and chosen[-1] in stop_tokens)


def _check(runner: Runner, rows: Sequence[Tensor], new: int, samples: int, stop: Sequence[int]) -> None:
    shape = runner.shape
    if new < 1 or samples < 1:
        raise InputError(f"max_new_tokens and samples must be at least 1, not {new} and {samples}.")
    longest = max(len(row) for row in rows)
    if longest + new > shape.n_ctx:
        raise InputError(
            f"A prompt of {longest} tokens leaves room for {shape.n_ctx - longest} new ones in the model's context of "
            f"{shape.n_ctx}, not for max_new_tokens {new}."
        )
    outside = [token for token in stop if not 0 <= token < shape.d_vocab]
    if outside:
        raise InputError(f"stop_tokens must be token ids from 0 to {shape.d_vocab - 1}, not {outside}.")
    if runner.interventions:
        raise InputError(
            "Generation does not take interventions: positions mean something else while a row grows; give changed "
            "heads as `edit`."
        )
