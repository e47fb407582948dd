"""The Runner: every experiment's one way to a model.

It runs any number of prompts of any lengths in batches by token budget, with captures and interventions in place, and
gives results back in the order of the prompts. A row's result does not depend on its batch beyond float rounding,
which is measured at every load (1e-5 and less in float32 logits of the models tried).
"""

import copy
import difflib
import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.errors import InputError
from mechlist.models.language_model import LanguageModel, fingerprint, wrap
from mechlist.models.telling import telling
from mechlist.models.tokenizer import encode
from mechlist.runner.assembly import in_order
from mechlist.runner.batch import Batch, masked_activations
from mechlist.runner.batching import check_prompts, plan_batches
from mechlist.runner.forward import Function, Pass, Work
from mechlist.runner.interventions import Intervention, Rows
from mechlist.runner.journal import Journal, call_name
from mechlist.runner.memory import CPU_TOKENS, GPU_TOKENS, bytes_per_row, captured_bytes
from mechlist.runner.pipeline import run_batches
from mechlist.runner.positions import Positions, resolve
from mechlist.runner.progress import Bar
from mechlist.runner.store import ActivationStore
from mechlist.runner.store.recall import Recall
from mechlist.runner.transfer import copy_stream
from mechlist.types import DType, Guard, ModelShape, Processing, parse_bytes

Prompts = Sequence[Sequence[int]] | Sequence[Tensor] | Int[Tensor, "prompt position"]


class Runner:
    """A model, a memory bound and a seed; runs prompts through the model in batches.

    Args:
        model: a HookedTransformer or TransformerBridge that is already built.
        memory: what activations and results of one batch may take, beyond the weights: `4GiB`.
        seed: every random choice of an experiment follows from it.
        progress: show a progress bar on a terminal.
        store: where activations of plain passes are kept and found again; without, everything is computed.
    """

    def __init__(
        self,
        model: Any,
        *,
        memory: str = "4GiB",
        seed: int = 0,
        progress: bool = True,
        store: ActivationStore | None = None,
    ) -> None:
        self._language_model = wrap(model)
        self._configure(memory, seed, progress, store)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "auto",
        dtype: DType = "float32",
        memory: str = "4GiB",
        seed: int = 0,
        processing: Processing | None = None,
        progress: bool = True,
        guards: bool = True,
        store: ActivationStore | None = None,
        bos: bool | None = None,
        context: int | None = None,
    ) -> "Runner":
        """Load a model by name or directory (see `mechlist.models.load.load`) and check that it can be trusted.

        Raises:
            ModelError: the model cannot be found or read.
            GuardError: it fails one of the cheap guards (`mechlist check` runs them all).
        """
        from mechlist.models.load import load
        from mechlist.runner.guards import require_cheap_guards

        runner = cls.__new__(cls)
        with telling(f"Loading {model}", progress):
            runner._language_model = load(
                model, device=device, dtype=dtype, processing=processing, bos=bos, context=context
            )
        runner._configure(memory, seed, progress, None)
        with telling(f"Checking {model}", progress):
            runner.language_model.one_by_one()
            if guards:
                require_cheap_guards(runner)
        # After the guards, which must see the model and not what was stored of it.
        runner.store = store
        return runner

    def _configure(self, memory: str, seed: int, progress: bool, store: ActivationStore | None) -> None:
        self.store = store
        self.memory = parse_bytes(memory)
        self.seed = seed
        self.progress = progress
        self.guards: list[Guard] = []
        """What the guards measured when the model was loaded."""
        self.journal: Journal | None = None
        self._calls = 0
        self._interventions: list[Intervention] = []
        self._stream = copy_stream(self._language_model.device)

    def restart(self, journal: Journal | None) -> None:
        """Begin a run: count calls from zero, and remember finished batches in `journal`."""
        self.journal = journal
        self._calls = 0

    def twin(self, number: int) -> "Runner":
        """A Runner around an untrained twin of the model, the `number`-th that follows from the seed.

        Raises:
            ModelError: the model runs through TransformerBridge.
        """
        from mechlist.models.twin import untrained_twin

        seed = int(torch.randint(2**31, (1,), generator=self.generator(f"untrained twin {number}")))
        other = copy.copy(self)
        other._language_model = untrained_twin(self._language_model, seed)
        other.__dict__.pop("fingerprint", None)
        other.guards, other._interventions = [], []
        other.restart(Journal(self.journal.directory / f"twin-{number}") if self.journal else None)
        return other

    @property
    def language_model(self) -> LanguageModel:
        """The model behind its small protocol."""
        return self._language_model

    @property
    def model(self) -> Any:
        """The HookedTransformer or TransformerBridge itself."""
        return self._language_model.module

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        return self._language_model.shape

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return self._language_model.tokenizer

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins every sequence, if the model has one."""
        return self._language_model.bos_token_id

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return fingerprint(self._language_model)

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator on the CPU that follows from the seed and from what it is for."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """A NumPy generator that follows from the seed and from what it is for."""
        return np.random.default_rng(
            int.from_bytes(hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()[:8], "big")
        )

    def hooks(self, *patterns: str) -> list[str]:
        """Hook points by name or shell-style pattern (`blocks.*.attn.hook_z`), in the model's order.

        Raises:
            InputError: a name or pattern that matches no hook point.
        """
        found: list[str] = []
        for pattern in patterns:
            names = [n for n in self.model.hook_dict if n == pattern or fnmatch.fnmatchcase(n, pattern)]
            if not names:
                close = difflib.get_close_matches(pattern, self._language_model.hook_names, n=1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise InputError(f"The model has no hook {pattern!r}.{hint}")
            found += [n for n in names if n not in found]
        return found

    @contextmanager
    def intervene(self, *interventions: Intervention) -> Iterator[None]:
        """Apply interventions to every forward pass inside the context; contexts nest, the outer ones act first.

        Raises:
            InputError: an intervention at a hook that does not exist, or at a pattern of several.
        """
        for intervention in interventions:
            if self.hooks(intervention.hook) != [intervention.hook]:
                raise InputError(f"An intervention takes the name of one hook, not the pattern {intervention.hook!r}.")
        before = self._interventions
        self._interventions = [*before, *interventions]
        try:
            yield
        finally:
            self._interventions = before

    @contextmanager
    def renumbered(self, prompt: Int[Tensor, " row"]) -> Iterator[None]:
        """Let the interventions in place see row r as prompt `prompt[r]`: for work that runs prompts many times."""

        def seen(intervention: Intervention) -> Intervention:
            def change(activation: Tensor, rows: Rows) -> Tensor:
                return intervention.change(activation, Rows(prompt[rows.index], rows.lengths))

            return Intervention(intervention.hook, change)

        before = self._interventions
        self._interventions = [seen(intervention) for intervention in before]
        try:
            yield
        finally:
            self._interventions = before

    def map(
        self,
        prompts: Prompts,
        function: Function,
        *,
        capture: Sequence[str] = (),
        positions: Positions = None,
        row_bytes: Callable[[int, int], int] | None = None,
        label: str = "Running the model",
    ) -> dict[str, Tensor]:
        """Run every prompt and keep what `function` makes of each batch, in the order of the prompts.

        Args:
            prompts: token ids of each prompt.
            function: maps a Batch to named tensors whose first axis is the batch's rows. Axes that differ in size
                between batches are padded on the right (NaN, -1 or False).
            capture: hook points, by name or pattern.
            positions: where activations are kept and logits are made (see `mechlist.runner.positions`).
            row_bytes: memory that `function` itself needs for one row of so many tokens, of which so many positions
                are kept, where that is much; captures and what `Batch.next_tokens` needs are counted without it.
            label: what the progress bar says.

        Returns:
            Tensors on the CPU, first axis prompt.

        Raises:
            InputError: prompts, hooks or positions that the model does not have; a memory bound that is too small.
            MechlistError: memory ran out with a single prompt.
        """
        rows = check_prompts(prompts, self.shape.n_ctx, self.shape.d_vocab)
        hooks = self.hooks(*capture)
        lengths = [len(r) for r in rows]
        chosen = resolve(positions, lengths)

        def needed(length: int) -> int:
            kept = length if chosen is None else chosen.shape[1]
            own = row_bytes(length, kept) if row_bytes else 0
            captured = captured_bytes(self.shape, hooks, length, kept, self._element)
            # The function runs when the layers' memory is free again, but for the final residual stream.
            return captured + max(self.forward_bytes(length), own + 4 * length * self.shape.d_model)

        # A quarter is for pieces of logits, an eighth for the store's RAM tier.
        plan = plan_batches(lengths, needed, self.memory * 5 // 8, self._max_tokens)
        forward = Pass(
            self._language_model,
            rows,
            hooks,
            chosen,
            tuple(self._interventions),
            function,
            self.memory // 4,
            self._recall,
        )
        asked = f"{hooks} {None if chosen is None else chosen.tolist()} {plan}"
        return self.execute(forward, plan, asked, label)

    def execute(self, work: Work, plan: Sequence[list[int]], asked: str, label: str) -> dict[str, Tensor]:
        """Work that is not a plain pass, batch by batch: with the journal, back-off and progress of `map`.

        Args:
            work: what is done to a batch of its prompts.
            plan: the batches, as numbers of prompts.
            asked: whatever the results depend on besides the prompts; names them in the journal.
            label: what the progress bar says.

        Returns:
            Tensors on the CPU, first axis prompt.
        """
        call = call_name(self._calls, work.prompts, asked)
        self._calls += 1
        with Bar(label, sum(len(p) for p in work.prompts), self.progress) as bar:
            results = list(run_batches(work, plan, call, self.journal, self._stream, bar))
        return in_order(results, [i for members in plan for i in members])

    def capture(self, prompts: Prompts, *hooks: str, positions: Positions = None) -> dict[str, Tensor]:
        """Activations at `hooks` (names or patterns) by hook name, first axis prompt; NaN where a prompt has ended."""
        names = self.hooks(*hooks)
        return self.map(
            prompts,
            masked_activations,
            capture=names,
            positions=positions,
            row_bytes=lambda length, kept: captured_bytes(self.shape, names, length, kept, self._element),
            label="Capturing activations",
        )

    def logits(
        self, prompts: Prompts, *, positions: Positions = None, columns: Int[Tensor, " column"] | None = None
    ) -> Float[Tensor, "prompt n vocab"]:
        """Logits at `positions` (all without), of every token or of the vocabulary's `columns` only.

        Raises:
            InputError: columns outside the vocabulary.
        """
        vocabulary = self.shape.d_vocab_out
        width = vocabulary if columns is None else len(columns)
        if columns is not None and not ((columns >= 0) & (columns < vocabulary)).all():
            raise InputError(f"columns must be token ids from 0 to {vocabulary - 1}, not {columns.tolist()}.")

        def function(batch: Batch) -> dict[str, Tensor]:
            logits = batch.logits(columns)
            if positions is None:
                # In place, because these logits are this function's own and may be the largest tensor of all.
                logits.masked_fill_(~batch.real.unsqueeze(-1), torch.nan)
            return {"logits": logits}

        return self.map(prompts, function, positions=positions, row_bytes=lambda _, kept: self._element * kept * width)[
            "logits"
        ]

    def store_activations(self, prompts: Prompts, *hooks: str, positions: Positions = None) -> None:
        """Compute activations into the store, batch by batch: a corpus larger than memory takes no more than a batch.

        Raises:
            InputError: the Runner has no store.
        """
        if self.store is None:
            raise InputError("There is no store to put activations into: give the Runner one (store=...).")
        self.map(prompts, _nothing, capture=hooks, positions=positions, label="Storing activations")

    def log_probs(self, prompts: Prompts) -> Float[Tensor, "prompt next"]:
        """Log-probability in nats of the token after each position; NaN beyond a prompt's end."""
        return self.map(prompts, lambda batch: {"log_prob": batch.next_tokens().log_prob})["log_prob"]

    def to_tokens(self, text: str, *, prepend_bos: bool | None = None) -> list[int]:
        """Token ids of a text behind the token that begins prompts, if there is one and `prepend_bos` is not False.

        Raises:
            InputError: the model has no tokenizer; a BOS is wanted and there is none.
        """
        if prepend_bos and self.bos_token_id is None:
            raise InputError("The model's prompts begin with no BOS token: leave prepend_bos out.")
        return encode(self.tokenizer, text, None if prepend_bos is False else self.bos_token_id)

    def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token with the blank it begins with; its number, for a model without tokenizer."""
        if self.tokenizer is None:
            return [str(t) for t in tokens]
        # Decoded alone, a token loses its leading blank in some tokenizers: decode it behind another.
        anchor = self.tokenizer.encode("a", add_special_tokens=False)
        start = len(self.tokenizer.decode(anchor))
        return [self.tokenizer.decode([*anchor, t], clean_up_tokenization_spaces=False)[start:] for t in tokens]

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What is in place, in the order in which it acts."""
        return tuple(self._interventions)

    @property
    def _recall(self) -> Recall | None:
        if self.store is None:
            return None
        view = self._language_model
        return Recall(self.store, self.fingerprint, view.device, view.dtype)

    @property
    def _max_tokens(self) -> int:
        return CPU_TOKENS if self._language_model.device.type == "cpu" else GPU_TOKENS

    @property
    def _element(self) -> int:
        return self._language_model.dtype.itemsize

    def forward_bytes(self, length: int) -> int:
        """Peak bytes of one row of a forward pass, without captures."""
        # A TransformerBridge makes the logits of every position on its way.
        logits = length * self.shape.d_vocab_out if self._language_model.makes_logits else 0
        return bytes_per_row(self.shape, length, self._element) + self._element * logits


def _nothing(batch: Batch) -> dict[str, Tensor]:
    return {"done": torch.ones(len(batch.tokens), dtype=torch.bool)}
