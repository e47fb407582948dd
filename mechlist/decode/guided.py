"""Answers that must begin with a text or follow a grammar, and how much of the distribution that leaves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist.datasets.chat import chat_tokens, refuse_special_tokens
from mechlist.decode.rules import LogitRule, ruled
from mechlist.errors import InputError
from mechlist.runner import Runner
from mechlist.text import visible

GrammarKind = Literal["regex", "json_schema", "lark"]


@dataclass(frozen=True)
class Seam:
    """A prompt and the text that the answer must begin with, as tokens."""

    prompt: tuple[int, ...]
    """The prompt alone."""
    prefix: tuple[int, ...]
    """The beginning of the answer alone."""
    together: tuple[int, ...]
    """Both, tokenised as one text."""

    @property
    def apart(self) -> tuple[int, ...]:
        """Both, tokenised apart."""
        return self.prompt + self.prefix

    @property
    def differ(self) -> bool:
        """Whether the seam is visible in the tokens."""
        return self.apart != self.together


def seam(runner: Runner, prompt: str, prefix: str, *, chat: bool = False) -> Seam:
    """The tokens of a prompt that goes on with the beginning of the answer.

    Args:
        runner: with the model and its tokenizer.
        prompt: text, or with `chat` the user's message in the chat template.
        prefix: text that the answer begins with.
        chat: put the prompt into the chat template; the answer then begins behind the opening of the model's turn.

    Raises:
        InputError: no chat template; a prefix that holds tokens with which a template opens or ends turns.
    """
    tokenizer = runner.tokenizer
    if tokenizer is None:
        raise InputError("The model has no tokenizer: it takes no text.")
    if chat:
        refuse_special_tokens(tokenizer, prefix, "prefix")
        alone, together = (chat_tokens(tokenizer, prompt, text) for text in ("", prefix))
    else:
        alone, together = (tuple(runner.to_tokens(text)) for text in (prompt, prompt + prefix))
    return Seam(alone, tuple(tokenizer.encode(prefix, add_special_tokens=False)), together)


class GrammarRule:
    """Allows the tokens with which a text can still come to follow a grammar, and the end where it does (llguidance).

    Masking changes the distribution: what is left is made larger in proportion, however unlikely the whole was.
    """

    def __init__(
        self, tokenizer: Any, d_vocab: int, kind: GrammarKind, grammar: str, stop_tokens: Sequence[int]
    ) -> None:
        """A rule for one tokenizer.

        Args:
            tokenizer: of the model, a fast one.
            d_vocab: tokens of the model.
            kind: what `grammar` is.
            grammar: a regular expression, a JSON schema, or a grammar in llguidance's dialect of Lark.
            stop_tokens: allowed where the text may end.

        Raises:
            InputError: llguidance is not installed; a grammar that it does not take; no stop token.
        """
        if kind not in get_args(GrammarKind):
            raise InputError(f"kind must be one of {', '.join(get_args(GrammarKind))}, not {kind!r}.")
        if not stop_tokens:
            raise InputError("stop_tokens must hold one token at least: a guided answer has to end.")
        self.kind, self.grammar = kind, grammar
        guidance = _llguidance()
        fast = getattr(tokenizer, "backend_tokenizer", None)
        if fast is None:
            raise InputError("A grammar takes a fast tokenizer (tokenizer.json), and the model has none.")
        known = guidance.LLTokenizer(fast.to_str(), n_vocab=d_vocab, eos_token=list(stop_tokens))
        source = _compiled(guidance, kind, grammar)
        wrong = guidance.LLMatcher.validate_grammar(source, known)
        if wrong:
            raise InputError(f"{kind} is not understood: {' '.join(wrong.split())[:200]}.")
        self._d_vocab = d_vocab
        self._start = guidance.LLMatcher(known, source, log_level=0)
        self._at: dict[tuple[int, ...], Any] = {}

    @property
    def name(self) -> str:
        """See LogitRule."""
        return f"{self.kind} {self.grammar}"

    def change(
        self, logits: Float[Tensor, "row vocab"], written: Int[Tensor, "row step"]
    ) -> Float[Tensor, "row vocab"]:
        """See LogitRule."""
        rows = [tuple(row) for row in written.tolist()]
        states = {row: self._state(row) for row in dict.fromkeys(rows)}
        # What rows of this length go on from; shorter ones are done with.
        self._at = states
        masks = torch.stack([self._mask(states[row]) for row in rows]).to(logits.device)
        return logits.masked_fill(~masks, -torch.inf)

    def _state(self, written: tuple[int, ...]) -> Any:
        """The matcher behind these tokens."""
        before = self._at.get(written[:-1]) if written else None
        matcher = (before or self._start).deep_copy()
        matcher.consume_tokens(list(written[-1:] if before is not None else written))
        if matcher.is_error():
            raise InputError(f"The grammar does not allow what was written: {' '.join(matcher.get_error().split())}.")
        return matcher

    def _mask(self, matcher: Any) -> Tensor:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")[: self._d_vocab].astype(bool))


def allowed_mass(
    runner: Runner, prompt: Sequence[int], answer: Sequence[int], rule: LogitRule
) -> Float[Tensor, " token"]:
    """Probability that the plain model gave to the tokens that the rule allowed, at each token of an answer.

    The answer's log-probability under the rule (at temperature 1) is its own minus the logarithm of these.
    """
    positions = list(range(len(prompt) - 1, len(prompt) - 1 + len(answer)))
    probs = runner.logits([[*prompt, *answer]], positions=positions)[0].float().softmax(dim=1)
    written = torch.tensor(list(answer), dtype=torch.long)[None]
    allowed = [
        ruled(rule, torch.zeros(1, probs.shape[1]), written[:, :step])[0] > -torch.inf for step in range(len(answer))
    ]
    return torch.stack([p[a].double().sum() for p, a in zip(probs, allowed, strict=True)])


def _compiled(guidance: Any, kind: GrammarKind, grammar: str) -> str:
    if not grammar.strip():
        raise InputError(f"{kind} must hold a grammar, not {visible(grammar)!r}.")
    try:
        if kind == "json_schema":
            return guidance.LLMatcher.grammar_from_json_schema(json.loads(grammar))
        if kind == "regex":
            return guidance.LLMatcher.grammar_from_regex(grammar)
        return guidance.LLMatcher.grammar_from_lark(grammar)
    except ValueError as error:
        raise InputError(f"{kind} is not understood: {' '.join(str(error).split())[:200]}.") from error


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise InputError(
            "Guided generation by a grammar needs llguidance, which is not installed: pip install 'mechlist[guided]'."
        ) from error
    return llguidance
