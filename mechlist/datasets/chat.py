"""One user message in a tokenizer's chat template, and the tokens that give a chat model's lists their form."""

import datetime
from typing import Any

from mechlist.datasets.lists.parse import ListTokens
from mechlist.datasets.templates import Templated, encoded, shared_start
from mechlist.errors import InputError

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}"
    "{{ message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
"""For tokenizers that have Gemma's turn tokens and no template of their own."""
_TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
_TURN_ENDS = ("<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|end|>")
_DAY = datetime.datetime(2024, 7, 26)
"""What a template that asks for the day or the time gets in place of today, or prompts would change overnight."""
_TIMES = "aAbBcdDefFGgHIjklmMpsSTuUVwWxXyYzZ"
"""Letters behind % in the forms of a date."""
_MESSAGE, _ITEM = "names", "- names"
"""Of a word that every list prompt holds: a tokenizer of few words must know it."""
_ANSWER = "mechlist-answer"
"""Looked for in the chat's text, and never tokenised."""


def chat_tokens(tokenizer: Any, message: str, prefill: str = "") -> tuple[int, ...]:
    """Token ids of one user message, the opening of the model's turn, and `prefill` as the model's first words.

    The whole is tokenised once, as one text. BOS stands in front once, where the template writes it or the tokenizer
    puts it in front of any text; a chat model that is used without BOS gets none.

    Raises:
        InputError: a tokenizer without chat template, a template that fails, or a message with a special token in it.
    """
    text = _render(tokenizer, message)
    refuse_special_tokens(tokenizer, message, "message")
    return encoded(tokenizer, text + prefill)


def model_header(tokenizer: Any) -> tuple[int, ...]:
    """Token ids that open the model's turn; for Gemma those of `<start_of_turn>model` and a line break.

    They are what the template adds for generation; where it adds nothing (Llama 2), all that follows the message.

    Raises:
        InputError: a tokenizer without chat template, or a template that puts nothing before the model's turn.
    """
    if isinstance(tokenizer, Templated):
        return tokenizer.header
    text = _render(tokenizer, _MESSAGE)
    opened = encoded(tokenizer, text)
    shared = shared_start(opened, encoded(tokenizer, _render(tokenizer, _MESSAGE, generate=False)))
    if shared == len(opened):
        shared = shared_start(opened, encoded(tokenizer, text[: _end_of(tokenizer, _MESSAGE, text)]))
    if shared == len(opened):
        raise InputError(
            f"The chat template of {_name(tokenizer)} must open the model's turn, and adds nothing for it."
        )
    return opened[shared:]


def list_tokens(tokenizer: Any) -> ListTokens:
    """The tokens of a list's form, as they stand in a list that the model writes.

    Each is looked at where it matters: the hyphen after the model header and after a line break, the line break after
    an item's word, the blank between a word and a line break, the end of turn after a line break.

    Raises:
        InputError: a tokenizer without chat template, or one that writes any of them otherwise than as one token.
    """
    header, begun, item, plain, filled = (
        _asked(tokenizer, text) for text in ("", "-", _ITEM, f"{_ITEM}\n-", f"{_ITEM} \n-")
    )
    first_hyphen = _between(header, begun, ())
    hyphen = None if first_hyphen is None or item[len(header) :][: len(first_hyphen)] != first_hyphen else first_hyphen
    line_break = _between(item, plain, hyphen or tuple(tokenizer.encode("-", add_special_tokens=False)))
    blank = _between(item, filled, plain[len(item) :]) if plain[: len(item)] == item else None
    end_of_turn, closing = _end_of_turn(tokenizer)
    found = {
        "hyphen '-' (after the model header)": hyphen,
        "line break '\\n' (between an item and a hyphen)": line_break,
        "blank ' ' (between an item and a line break)": blank,
        f"end of turn {closing!r} (after a line break)": end_of_turn,
    }
    _check_single(tokenizer, found)
    ids = [tokens[0] for tokens in found.values() if tokens]
    return ListTokens(
        hyphen=ids[0],
        line_break=ids[1],
        blank=ids[2],
        end_of_turn=ids[3],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
    )


def _asked(tokenizer: Any, prefill: str) -> tuple[int, ...]:
    """Of any request, with the beginning of the answer."""
    if isinstance(tokenizer, Templated):
        return tokenizer.tokens(_MESSAGE, "", prefill)
    return chat_tokens(tokenizer, _MESSAGE, prefill)


def _end_of_turn(tokenizer: Any) -> tuple[tuple[int, ...] | None, str]:
    """Its tokens after a line break, and its text."""
    if isinstance(tokenizer, Templated):
        return tokenizer.end_tokens[:1], tokenizer.decode(tokenizer.end_tokens[:1])
    closing = _closing(tokenizer)
    broken, ended = (_asked(tokenizer, f"{_ITEM}\n{text}") for text in ("", closing))
    found = _between(broken, ended, ())
    return (found[:1] if found and found[0] in _added(tokenizer) else found), closing


def _check_single(tokenizer: Any, found: dict[str, tuple[int, ...] | None]) -> None:
    """Each mark must be one token, and a known one."""
    problems = []
    for name, tokens in found.items():
        if tokens is None:
            problems.append(f"{name} merges with the text beside it")
        elif len(tokens) != 1:
            problems.append(f"{name} takes {len(tokens)} tokens")
        elif is_unknown(tokenizer, tokens[0]):
            problems.append(f"{name} is unknown to it")
    if problems:
        raise InputError(
            f"{_name(tokenizer)} must write each mark of a list as one token of its own: {'; '.join(problems)}."
        )


def _between(left: tuple[int, ...], whole: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...] | None:
    """The tokens of `whole` between `left` and `right`; None where it does not begin and end with them."""
    end = len(whole) - len(right)
    if end < len(left) or whole[: len(left)] != left or whole[end:] != right:
        return None
    return whole[len(left) : end]


def _closing(tokenizer: Any) -> str:
    """The text that closes the model's turn, without white space around it."""
    text = _render(tokenizer, _MESSAGE, answer=_ANSWER, generate=False)
    return text[_end_of(tokenizer, _ANSWER, text) :].strip()


def _end_of(tokenizer: Any, part: str, text: str) -> int:
    if part not in text:
        raise InputError(f"The chat template of {_name(tokenizer)} must write every message of a chat, and drops one.")
    return text.rindex(part) + len(part)


def _render(tokenizer: Any, message: str, *, answer: str | None = None, generate: bool = True) -> str:
    """The chat as text; with `generate`, up to where the model begins to write."""
    chat = [{"role": "user", "content": message}]
    if answer is not None:
        chat.append({"role": "assistant", "content": answer})
    template = _template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            chat,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=generate,
            date_string=_DAY.strftime("%d %b %Y"),
        )
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"The chat template of {_name(tokenizer)} does not take one user message ({reason})."
        ) from error


def _template(tokenizer: Any) -> str | None:
    """The tokenizer's own template, whose clock stands still, or Gemma's; None for what only the tokenizer can read."""
    if getattr(tokenizer, "chat_template", None):
        template = tokenizer.get_chat_template()
        return f"{_clock()}{template}" if "strftime_now" in template else None
    if tokenizer is not None and all(_id_of(tokenizer, token) is not None for token in _TURN_TOKENS):
        return GEMMA_TEMPLATE
    raise InputError(
        f"{_name(tokenizer)} has no chat template: give a chat model such as google/gemma-2-2b-it or list-tiny."
    )


def _clock() -> str:
    """A macro in the place of the function that tells templates the time: a template is given no functions."""
    told = [(f"%{flag}{letter}", _DAY.strftime(f"%{flag}{letter}")) for flag in ("-", "") for letter in _TIMES]
    filters = "".join(f" | replace({form!r}, {text!r})" for form, text in [*told, ("%%", "%")])
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}{{%- endmacro -%}}"


def refuse_special_tokens(tokenizer: Any, text: str, name: str) -> None:
    """Refuse a text that would open or end a turn by itself.

    Raises:
        InputError: it holds special tokens; `name` is what it is called.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    plain = not set(_TURN_TOKENS) & set(tokenizer.convert_ids_to_tokens(ids))
    if plain and tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True):
        # To ask for all special tokens of a large vocabulary takes as long as to read a hundred texts.
        return
    special = [i for i in sorted(set(ids) & _special(tokenizer)) if not is_unknown(tokenizer, i)]
    if special:
        names = ", ".join(tokenizer.convert_ids_to_tokens(special))
        raise InputError(f"{name} must be plain text, without the special tokens of the chat: it holds {names}.")


def stop_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's eos, and the end of a turn in the usual chat templates."""
    found = [tokenizer.eos_token_id, *(_id_of(tokenizer, name) for name in _TURN_ENDS)]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def _special(tokenizer: Any) -> set[int]:
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = {i for name in _TURN_TOKENS if (i := _id_of(tokenizer, name)) is not None}
    return marked | set(tokenizer.all_special_ids) | turns


def _id_of(tokenizer: Any, token: str) -> int | None:
    """Of a token by its name, if the vocabulary has it; the whole of it is not looked at."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found if found is not None and tokenizer.convert_ids_to_tokens(found) == token else None


def _added(tokenizer: Any) -> set[int]:
    return set(tokenizer.added_tokens_decoder) | _special(tokenizer)


def is_unknown(tokenizer: Any, token: int | None) -> bool:
    """Whether the token stands for words that are not in the vocabulary (GPT-2 uses its end of text for that)."""
    return (
        token is not None
        and token == tokenizer.unk_token_id
        and token not in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )


def _name(tokenizer: Any) -> str:
    if tokenizer is None:
        return "A model without tokenizer"
    return f"The tokenizer {tokenizer.name_or_path}".rstrip()
