"""The first look at a prompt as tables and sentences, for the terminal, a page and the app."""

from collections.abc import Iterator

import pandas as pd

from mechlist.lens.look import Look
from mechlist.runner import Runner
from mechlist.text import visible
from mechlist.types import head_name


def look_tables(runner: Runner, seen: Look, *, most: int = 3) -> dict[str, pd.DataFrame]:
    """What was seen, by title: of the last token alone, or of every one with the `most` probable next tokens."""
    return dict(_tables(runner, seen, most))


def _tables(runner: Runner, seen: Look, most: int) -> Iterator[tuple[str, pd.DataFrame]]:
    if len(seen.positions) < len(seen.tokens):
        places = range(len(seen.tokens))
        yield "tokens", pd.DataFrame({"position": places, "token": _shown(seen.texts), "id": seen.tokens})
        names = _texts(runner, seen.top_token[0].tolist())
        columns = {"rank": range(1, len(names) + 1), "token": names, "id": seen.top_token[0].tolist()}
        numbers = {"probability": seen.probability[0].tolist(), "logit": seen.logit[0].tolist()}
        yield f"what comes after {_shown(seen.texts)[-1]!r}", pd.DataFrame(columns | numbers)
        said = _texts(runner, seen.stage_token[0].tolist())
        yield (
            f"what each layer would say, and the rank it gives {names[0]!r}",
            pd.DataFrame(
                {
                    "after": _stages(len(said)),
                    "token": said,
                    "probability": seen.stage_probability[0].tolist(),
                    "rank": seen.stage_rank[0].tolist(),
                }
            ),
        )
        yield from _heads(seen)
        return
    rows = [
        {
            "position": place,
            "token": _shown(seen.texts)[place],
            "id": seen.tokens[place],
            "next one's rank": int(rank) or "",
            "most probable": ", ".join(
                f"{name} {share:.2f}"
                for name, share in zip(_texts(runner, tokens[:most]), seen.probability[n].tolist(), strict=False)
            ),
            "comes first from": _stages(seen.stage_rank.shape[1])[seen.settled[n]],
        }
        for n, (place, rank, tokens) in enumerate(
            zip(seen.positions, seen.next_rank, seen.top_token.tolist(), strict=True)
        )
    ]
    yield "every token, and what comes after it", pd.DataFrame(rows)
    yield from _heads(seen)


def _heads(seen: Look) -> Iterator[tuple[str, pd.DataFrame]]:
    """The heads that attend most: those of the last token, or the strongest one of every token."""
    if not seen.weight.shape[1]:
        return
    names, one = _shown(seen.texts), len(seen.positions) == 1
    rows = [
        {"position": place, "token": names[place]}
        | {"head": head_name(tuple(seen.head[n, k].tolist())), "looks at": int(seen.attended[n, k])}
        | {"there": names[int(seen.attended[n, k])], "weight": float(seen.weight[n, k])}
        for n, place in enumerate(seen.positions)
        for k in range(seen.weight.shape[1] if one else 1)
        if seen.weight[n, k] > 0  # BOS sees nothing but itself
    ]
    frame = pd.DataFrame(rows)
    yield "heads that attend most (BOS aside)", frame.drop(columns=["position", "token"]) if one else frame


def look_findings(runner: Runner, seen: Look) -> list[str]:
    """What comes next, and from where on it comes first."""
    names = _texts(runner, seen.top_token[-1].tolist())
    return [
        f"{seen.model} reads {len(seen.tokens)} tokens and expects {names[0]!r} next "
        f"({seen.probability[-1, 0]:.1%}); it comes first {_from(seen)}. "
        "One prompt says nothing about others."
    ]


def _from(seen: Look) -> str:
    stage = seen.settled[-1]
    return "from the embedding on" if stage == 0 else f"from layer {stage - 1} on"


def _stages(count: int) -> list[str]:
    return ["the embedding", *(f"layer {n}" for n in range(count - 1))]


def _texts(runner: Runner, tokens: list[int]) -> list[str]:
    return _shown(runner.token_texts(tokens))


def _shown(texts: list[str] | tuple[str, ...]) -> list[str]:
    return [visible(text) for text in texts]
