"""Log-probability records: what a model said of every token of a text, in the recorded format and in OpenAI's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mechlist.errors import InputError
from mechlist.text import visible
from mechlist.text_files import entry, json_lines, json_text, parse_json, read_file

MOST_BYTES = 10**8
"""Of a file that is read."""


@dataclass(frozen=True)
class Alternative:
    """A token that might have come."""

    token: str
    log_prob: float | int
    """In nats."""
    token_id: int | None = None


@dataclass(frozen=True)
class RecordedToken:
    """A token that came."""

    token: str
    log_prob: float | int
    """In nats."""
    alternatives: tuple[Alternative, ...] = ()
    """The most probable tokens in its place, the first one first; often it is one of them."""
    token_id: int | None = None
    rank: int | None = None
    """Tokens of the vocabulary that were more probable; None where only the alternatives are known."""
    entropy: float | int | None = None
    """Of the prediction, in nats."""

    @property
    def known_rank(self) -> int:
        """Its rank, or else the number of recorded alternatives that were more probable, which is a lower bound.

        Recorded alternatives are rounded apart from the token itself: it is compared as one of them, if it is there.
        """
        if self.rank is not None:
            return self.rank
        same = [a.log_prob for a in self.alternatives if a.token == self.token]
        own = min(same, key=lambda log_prob: abs(log_prob - self.log_prob), default=self.log_prob)
        return sum(a.log_prob > own for a in self.alternatives)


@dataclass(frozen=True)
class Record:
    """A prompt and a response, token by token."""

    prompt: str
    response: str
    tokens: tuple[RecordedToken, ...]

    @property
    def perplexity(self) -> float:
        """Exp of minus the mean log-probability of the tokens; NaN of none."""
        if not self.tokens:
            return math.nan
        return math.exp(-sum(t.log_prob for t in self.tokens) / len(self.tokens))


def read_records(file: Path) -> list[Record]:
    """Records from a file: JSON lines, or JSON of one record or of a list; each a record or a response of OpenAI's API.

    Raises:
        InputError: a file that is missing, too large, cut off, not JSON, or holds something else.
    """
    return parse_records(read_file(file, MOST_BYTES, "a file of records"), str(file))


def parse_records(text: str, name: str) -> list[Record]:
    """Records from the text of a file, which errors call `name`; see `read_records`."""
    values = _values(name, text)
    records: list[Record] = []
    for where, value in values:
        try:
            records += from_openai(value) if _is_openai(value) else [_record(value)]
        except InputError as error:
            raise InputError(f"{name}{where} is no record of log-probabilities: {error}") from error
    if not records:
        raise InputError(f"{name} must hold one record at least, and holds none.")
    return records


def to_json(record: Record) -> dict[str, Any]:
    """A record in the recorded format (`prob` in per cent), with ids, ranks and entropies where they are known."""
    return {
        "prompt": record.prompt,
        "response": record.response,
        "data": [
            {
                **_said(t.token, t.log_prob, t.token_id),
                **{name: value for name, value in (("rank", t.rank), ("entropy", t.entropy)) if value is not None},
                "other_tokens": [_said(a.token, a.log_prob, a.token_id) for a in t.alternatives],
            }
            for t in record.tokens
        ],
    }


def records_text(records: Sequence[Record]) -> str:
    """Records as JSON lines; token text stands in them as it is."""
    return "".join(json_text(to_json(record)) + "\n" for record in records)


def records_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a token, for Parquet; its text is made visible, since it may hold anything."""
    rows = [
        {
            "record": number,
            "position": position,
            "token": visible(t.token),
            "token_id": t.token_id,
            "log_prob": t.log_prob,
            "prob": math.exp(t.log_prob),
            "rank": t.known_rank,
            "entropy": t.entropy,
            "alternatives": ", ".join(f"{visible(a.token)} {math.exp(a.log_prob):.3f}" for a in t.alternatives),
        }
        for number, record in enumerate(records)
        for position, t in enumerate(record.tokens)
    ]
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else None)
    return frame if frame.empty else frame.astype({"token_id": "Int64", "entropy": "float64"})


def to_openai(record: Record, model: str) -> dict[str, Any]:
    """A record as a chat completion of OpenAI's API with `logprobs`, and the prompt, which that leaves out."""
    content = [
        {
            **_openai_token(t.token, t.log_prob),
            "top_logprobs": [_openai_token(a.token, a.log_prob) for a in t.alternatives],
        }
        for t in record.tokens
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": record.response},
        "logprobs": {"content": content},
        "finish_reason": "stop",
    }
    return {"object": "chat.completion", "model": model, "prompt": record.prompt, "choices": [choice]}


def from_openai(value: Mapping[str, Any]) -> list[Record]:
    """The records in a response of OpenAI's API, one a choice: of a chat completion, or of an older completion.

    Raises:
        InputError: choices without log-probabilities, or entries of another form.
    """
    records = []
    for number, choice in enumerate(entry(value, "choices", list, "the response")):
        where = f"choice {number}"
        told = entry(choice, "logprobs", dict, where)
        tokens = _chat_tokens(told, where) if "content" in told else _completion_tokens(told, where)
        message = choice.get("message") or {}
        response = message.get("content") or choice.get("text") or "".join(t.token for t in tokens)
        records.append(Record(str(value.get("prompt") or ""), str(response), tuple(tokens)))
    return records


def _values(name: str, text: str) -> list[tuple[str, Any]]:
    """What the file holds, with where it stands."""
    try:
        value = parse_json(text)
    except ValueError as error:
        lines = list(json_lines(text))
        if len(lines) < 2:
            raise InputError(f"{name} is cut off or not JSON: {error}.") from error
        return [(f", line {n}", _line(name, n, line)) for n, line in lines]
    if isinstance(value, list):
        return [(f", entry {n}", one) for n, one in enumerate(value, start=1)]
    return [("", value)]


def _line(name: str, number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise InputError(f"{name} is cut off or not JSON, in line {number}: {error}.") from error


def _is_openai(value: Any) -> bool:
    return isinstance(value, dict) and "choices" in value


def _record(value: Any) -> Record:
    tokens = []
    for number, one in enumerate(entry(value, "data", list, "a record")):
        where = f"token {number}"
        others = [_alternative(other, where) for other in entry(one, "other_tokens", list, where, missing=[])]
        tokens.append(
            RecordedToken(
                token=entry(one, "token", str, where),
                log_prob=_log_prob(one, where),
                alternatives=tuple(others),
                token_id=entry(one, "token_id", int, where, missing=None),
                rank=entry(one, "rank", int, where, missing=None),
                entropy=entry(one, "entropy", (int, float), where, missing=None),
            )
        )
    response = entry(value, "response", str, "a record", missing="".join(t.token for t in tokens))
    return Record(entry(value, "prompt", str, "a record"), response, tuple(tokens))


def _alternative(value: Any, where: str) -> Alternative:
    where = f"an alternative of {where}"
    return Alternative(
        entry(value, "token", str, where), _log_prob(value, where), entry(value, "token_id", int, where, missing=None)
    )


def _log_prob(value: Any, where: str) -> float | int:
    found = entry(value, "logprob", (int, float), where)
    if not found <= 1e-4:
        raise InputError(f"'logprob' of {where} must be a logarithm of a probability, at most 0, not {found}.")
    return found


def _said(token: str, log_prob: float | int, token_id: int | None) -> dict[str, Any]:
    known = {} if token_id is None else {"token_id": token_id}
    return {"token": token, "logprob": log_prob, "prob": 100 * math.exp(log_prob), **known}


def _openai_token(token: str, log_prob: float | int) -> dict[str, Any]:
    return {"token": token, "logprob": log_prob, "bytes": list(token.encode("utf-8", "surrogatepass"))}


def _chat_tokens(told: Mapping[str, Any], where: str) -> list[RecordedToken]:
    tokens = []
    for number, one in enumerate(entry(told, "content", list, where)):
        place = f"token {number} of {where}"
        others = [
            Alternative(_openai_text(other, place), _log_prob(other, place))
            for other in entry(one, "top_logprobs", list, place, missing=[])
        ]
        tokens.append(RecordedToken(_openai_text(one, place), _log_prob(one, place), tuple(others)))
    return tokens


def _openai_text(value: Any, where: str) -> str:
    """The text of a token: its bytes, where they are text by themselves."""
    token = entry(value, "token", str, where)
    try:
        return bytes(entry(value, "bytes", list, where, missing=None) or token.encode()).decode()
    except (UnicodeError, ValueError, TypeError):
        return token


def _completion_tokens(told: Mapping[str, Any], where: str) -> list[RecordedToken]:
    """Of an older completion, whose lists stand beside each other; a token without log-probability is left out."""
    texts, log_probs = (entry(told, name, list, where) for name in ("tokens", "token_logprobs"))
    tops = entry(told, "top_logprobs", list, where, missing=None) or [None] * len(texts)
    if not len(texts) == len(log_probs) == len(tops):
        raise InputError(f"tokens, token_logprobs and top_logprobs of {where} must be equally long.")
    tokens = []
    for number, (text, log_prob, top) in enumerate(zip(texts, log_probs, tops, strict=True)):
        if log_prob is None:
            continue
        place = f"token {number} of {where}"
        said = [{"token": other, "logprob": value} for other, value in (top or {}).items()]
        ordered = sorted((_alternative(one, place) for one in said), key=lambda a: -a.log_prob)
        tokens.append(RecordedToken(str(text), _log_prob({"logprob": log_prob}, place), tuple(ordered)))
    return tokens
