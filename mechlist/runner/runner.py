"""The Runner: every experiment's one way to a model.

It runs any number of prompts of any lengths in batches by token budget, with captures and interventions in place, and
gives results back in the order of the prompts. A row's result does not depend on its batch beyond float rounding,
which is measured at every load (1e-5 and less in float32 logits of the models tried).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist import effort
from mechlist.datasets.answers import answer_token
from mechlist.errors import InputError
from mechlist.models.identity import Identity
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.telling import telling
from mechlist.models.tokenizer import encode
from mechlist.runner.batch import Batch, masked_activations
from mechlist.runner.batching import Prompts, check_prompts, plan_batches
from mechlist.runner.executor import Executor, Local
from mechlist.runner.forward import Counted, Function, Pass, Work
from mechlist.runner.guards import require_cheap_guards
from mechlist.runner.interventions import Intervention, find_hooks, seen_as
from mechlist.runner.journal import Journal
from mechlist.runner.memory import MemoryShares, bytes_per_row, captured_bytes, padded_tokens
from mechlist.runner.positions import Positions, resolve
from mechlist.runner.progress import Bar
from mechlist.runner.store import ActivationStore
from mechlist.runner.store.recall import Recall
from mechlist.text import number_of
from mechlist.types import DType, Guard, ModelShape, Processing, format_bytes, parse_bytes


class Runner:
    """A model, a memory bound and a seed; runs prompts through the model in batches.

    Args:
        model: a HookedTransformer or TransformerBridge that is already built, or the view of one.
        memory: what activations and results of one batch may take, beyond the weights: `4GiB`, or bytes.
        seed: every random choice of an experiment follows from it.
        progress: show a progress bar on a terminal.
        store: where activations of plain passes are kept and found again; without, everything is computed.
        executor: where batches are done; by default here.
    """

    def __init__(
        self,
        model: Any,
        *,
        memory: str | int = "4GiB",
        seed: int = 0,
        progress: bool = True,
        store: ActivationStore | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._language_model = wrap(model)
        self.store = store
        self.shares = MemoryShares(memory if isinstance(memory, int) else parse_bytes(memory))
        """What each kind of work may take of the memory bound."""
        self.seed = seed
        self.progress = progress
        self.guards: list[Guard] = []
        """What the guards measured when the model was loaded."""
        self._executor = executor or Local(self._language_model.device, progress)
        self._interventions: list[Intervention] = []
        self._batch_share = 1.0
        self._identity = Identity(self._language_model)

    def __repr__(self) -> str:
        info, dtype = self._language_model.info, str(self._language_model.dtype).removeprefix("torch.")
        layers, place = number_of(self.shape.n_layers, "layers"), self._language_model.device
        memory = format_bytes(self.memory).replace(".0 ", "").replace(" ", "")
        return f"Runner({info['name']}, {layers}, {place}, {dtype}, memory={memory})"

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

        with telling(f"Loading {model}", progress):
            loaded = load(model, device=device, dtype=dtype, processing=processing, bos=bos, context=context)
        runner = cls(loaded, memory=memory, seed=seed, progress=progress)
        with telling(f"Checking {model}", progress):
            runner.language_model.one_by_one()
            if guards:
                require_cheap_guards(runner)
        # After the guards, which must see the model and not what was stored of it.
        runner.store = store
        return runner

    def restart(self, journal: Journal | None) -> None:
        """Begin a run: count calls from zero, and remember finished batches in `journal`."""
        self._executor = Local(self._language_model.device, self.progress, journal)

    def untrained(self, number: int) -> "Runner":
        """A Runner around an untrained model of the same architecture, the `number`-th that follows from the seed.

        Raises:
            ModelError: the model runs through TransformerBridge.
        """
        from mechlist.models.untrained import untrained_model

        # The words are older than the name: another seed would be another model.
        seed = int(torch.randint(2**31, (1,), generator=self.generator(f"untrained twin {number}")))
        model, executor = untrained_model(self._language_model, seed), self._executor.beside(f"untrained-{number}")
        return self._with(model, executor, store=self.store)

    def with_executor(self, executor: Executor) -> "Runner":
        """The same model, memory bound, seed and interventions, whose calls are done elsewhere; nothing is stored."""
        other = self._with(self._language_model, executor, store=None)
        other._interventions = [*self._interventions]
        return other

    def reloaded(self, processing: Processing) -> "Runner":
        """A Runner around the same model, from the same files, whose weights were processed in another way.

        Raises:
            ModelError: the files cannot be read any more.
        """
        from mechlist.models.load import load

        info, device = self._language_model.info, str(self._language_model.device)
        name, bos = str(info.get("directory", info["name"])), info["bos"] is not None
        dtype = cast(DType, str(self._language_model.dtype).removeprefix("torch."))
        with telling(f"Loading {info['name']} again, its weights as they are", self.progress):
            model = load(name, device=device, dtype=dtype, processing=processing, bos=bos, context=info["context"])
            model.one_by_one()
        model.info["name"] = info["name"]
        return self._with(model, self._executor.beside("reloaded"), store=self.store)

    def _with(self, model: LanguageModel, executor: Executor, *, store: ActivationStore | None) -> "Runner":
        return Runner(model, memory=self.memory, seed=self.seed, progress=self.progress, store=store, executor=executor)

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

    @property
    def memory(self) -> int:
        """The memory bound, in bytes."""
        return self.shares.bound

    @property
    def journal(self) -> Journal | None:
        """Where finished batches are remembered, if anywhere."""
        return self._executor.journal

    def fingerprint(self) -> str:
        """SHA-256 of the weights as they are now; worked out again only when they have changed."""
        return self._identity.weights

    def identity(self) -> str:
        """SHA-256 of the weights and of all that is done with them; of the weights alone under hooks of one's own."""
        return self._identity.model or self._identity.weights

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator on the CPU that follows from the seed and from what it is for."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def numpy_generator(self, purpose: str) -> np.random.Generator:
        """A NumPy generator that follows from the seed and from what it is for."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def hooks(self, *patterns: str) -> list[str]:
        """Hook points by name or shell-style pattern (`blocks.*.attn.hook_z`), in the model's order.

        Raises:
            InputError: a name or pattern that matches no hook point.
        """
        return find_hooks(self.model.hook_dict, patterns, self._language_model.hook_names)

    @contextmanager
    def intervene(self, *interventions: Intervention) -> Iterator[None]:
        """Apply interventions to every forward pass inside the context; contexts nest, the outer ones act first.

        Raises:
            InputError: an intervention at a hook that does not exist, that changes nothing, or at a pattern of several.
        """
        for intervention in interventions:
            if self.hooks(intervention.hook) != [intervention.hook]:
                raise InputError(f"An intervention takes the name of one hook, not the pattern {intervention.hook!r}.")
            if self._language_model.is_inert(intervention.hook):
                raise InputError(
                    f"{intervention.hook} cannot be changed in this model: the hook is there, but what is changed at "
                    "it changes nothing that follows."
                )
        with self._holding([*self._interventions, *interventions], self._batch_share):
            yield

    @contextmanager
    def renumbered(self, prompt: Int[Tensor, " row"]) -> Iterator[None]:
        """Let the interventions in place see row r as prompt `prompt[r]`: for work that runs prompts many times."""
        with self._holding([seen_as(one, prompt) for one in self._interventions], self._batch_share):
            yield

    @contextmanager
    def smaller_batches(self, share: float | int) -> Iterator[None]:
        """Inside, batches of `map` take this share of their usual tokens and memory, and one prompt at least."""
        with self._holding(self._interventions, share):
            yield

    @contextmanager
    def _holding(self, interventions: list[Intervention], batch_share: float | int) -> Iterator[None]:
        before = self._interventions, self._batch_share
        self._interventions, self._batch_share = interventions, batch_share
        try:
            yield
        finally:
            self._interventions, self._batch_share = before

    def steps(self, label: str, total: int) -> Iterator[int]:
        """0 to `total` - 1, for a loop of steps that take equally long and make no calls, with a progress bar.

        While a run is planned a few of them stand for all (see `mechlist.effort`, whose `steps` is for loops of calls).
        """
        with Bar(label, total, self.progress) as bar:
            for step in effort.steps(total, label):
                yield step
                bar.advance(1)

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
            prompts: one prompt or several: texts, token ids, or what a Hugging Face tokenizer gives.
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
        rows = self.rows(prompts)
        hooks = self.hooks(*capture)
        lengths = [len(r) for r in rows]
        chosen = resolve(positions, lengths)

        def needed(length: int) -> int:
            kept = length if chosen is None else chosen.shape[1]
            own = row_bytes(length, kept) if row_bytes else 0
            captured = captured_bytes(self.shape, hooks, length, kept, self._element)
            # The function runs when the layers' memory is free again, but for the final residual stream.
            return captured + max(self.forward_bytes(length), own + 4 * length * self.shape.d_model)

        plan = plan_batches(lengths, needed, self._batch_bytes(needed(max(lengths))), self._max_tokens)
        forward = Pass(
            self._language_model,
            rows,
            hooks,
            chosen,
            tuple(self._interventions),
            function,
            self.shares.logits,
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
        return self._executor.execute(work, plan, asked, label)

    def in_blocks(self, work: Counted, plan: Sequence[list[int]]) -> dict[str, Tensor]:
        """Work whose blocks of prompts make calls of their own, which have journal, back-off and progress.

        Args:
            work: what is done to a block of its prompts.
            plan: the blocks, as numbers of prompts.

        Returns:
            Tensors on the CPU, first axis prompt.
        """
        return self._executor.in_blocks(work, plan)

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

    def rows(self, prompts: Prompts) -> list[Int[Tensor, " _"]]:
        """Token ids of prompts given in any way: texts, ids as lists, tensors or arrays, or a tokenizer's output.

        A text gets the token that begins prompts. Padding of a tokenizer's output is taken off by its attention mask.

        Raises:
            InputError: prompts that the model cannot take; text, where there is no tokenizer.
        """
        return check_prompts(prompts, self.shape.n_ctx, self.shape.d_vocab, self.to_tokens)

    def single_token(self, text: str, name: str = "text") -> int:
        """The one token that a text is, with its leading blank, or an id is (`id:286`); errors call it `name`.

        Raises:
            InputError: no token or several, one beyond the vocabulary that the model writes, or no tokenizer.
        """
        return answer_token(self, name, text, vocabulary=self.shape.d_vocab_out)

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
        # What hooks or methods of somebody's own make of the model has no name to be stored under.
        key = None if self.store is None else self._identity.key
        if self.store is None or key is None:
            return None
        view = self._language_model
        return Recall(self.store, key, view.device, view.dtype)

    @property
    def _max_tokens(self) -> int:
        return int(self._batch_share * padded_tokens(self._language_model.device))

    def _batch_bytes(self, one: int) -> int:
        """What a batch may take, of which a single prompt takes `one` at most."""
        usual = self.shares.batch
        return usual if self._batch_share == 1 else min(usual, max(int(self._batch_share * usual), one))

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
