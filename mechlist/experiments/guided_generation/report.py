"""Figures, tables and sentences of `guided-generation`, from its saved results alone."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from mechlist.decode.records import Record, RecordedToken
from mechlist.decode.token_texts import NONE, token_texts
from mechlist.figures import position_lines
from mechlist.figures.token_text import coloured_text
from mechlist.text import number, number_of, unescaped, visible

SHOWN = 3
"""Prompts that get figures."""


def figures(results: xr.Dataset) -> dict[str, go.Figure]:
    """Of each prompt its first guided answer and the model's own, and the mass that was allowed."""
    drawn: dict[str, go.Figure] = {}
    masses: dict[str, xr.DataArray] = {}
    for prompt in range(min(SHOWN, results.sizes["prompt_number"])):
        for guided in (True, False):
            answer = _answers(results, prompt, guided)[0]
            texts = _texts(results, answer)
            if not texts:
                continue
            size, kind = len(texts), "guided" if guided else "free"
            one = results.isel(answer=answer, token=slice(0, size))
            drawn[f"{kind}-{prompt + 1}"] = coloured_text(
                xr.DataArray(np.exp(one["log_prob"].values), dims="token"),
                texts,
                title=f"{kind.capitalize()} answer behind “{_prompt(results, prompt, 50)}”",
                caption="Each token is coloured by its probability under the plain model"
                + (f"; the first {number_of(given, 'tokens')} were given." if (given := _given(one)) else "."),
                unit="probability",
                confidence=True,
                hover=[f"allowed in its place: {mass:.3g} of the probability" for mass in one["allowed_mass"].values],
            )
            if guided:
                masses[f"{prompt + 1}. {_prompt(results, prompt, 24)}"] = one["allowed_mass"].drop_vars("answer")
    if results.attrs["guide"] or any(_given(results.isel(answer=a)) for a in range(results.sizes["answer"])):
        drawn["allowed"] = position_lines(
            masses,
            title="Probability that the plain model gave to what was allowed",
            caption="At each token of the first guided answer: what is left out was made zero, and the rest larger in "
            "proportion, so the guided distribution is another one than the model's.",
            x_title="token",
            y_title="allowed mass",
        )
    return drawn


def tables(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Answers with their log-probabilities under both distributions; every token."""
    answers = pd.DataFrame(
        [
            {
                "prompt": _prompt(results, int(results["prompt_of"][i])),
                "guided": bool(results["guided"][i]),
                "answer": visible("".join(_texts(results, i))),
                "tokens": len(_texts(results, i)),
                "given": int(results["prefix_tokens"][i]),
                "ended": bool(results["stopped"][i]),
                "log_prob": float(results["log_prob"][i].sum()),
                "log_prob_guided": float(results["guided_log_prob"][i].sum()),
                "log_allowed": float(np.nansum(np.log(results["allowed_mass"].values[i]))),
            }
            for i in range(results.sizes["answer"])
        ]
    )
    tokens = [
        {"answer": i, "position": j, "token": visible(text), "token_id": token_id}
        | {name: float(results[name][i, j]) for name in ("log_prob", "allowed_mass", "guided_log_prob")}
        for i in range(results.sizes["answer"])
        for j, (text, token_id) in enumerate(_tokens(results, i))
    ]
    return {"answers": answers, "tokens": pd.DataFrame(tokens)}


def records(results: xr.Dataset) -> dict[str, Record]:
    """Of each prompt its first guided answer and the model's own, with what was recorded of each token."""
    found = {}
    for prompt in range(results.sizes["prompt_number"]):
        for guided in (True, False):
            answer = _answers(results, prompt, guided)[0]
            log_prob = results["log_prob"].values[answer]
            tokens = [
                RecordedToken(text, float(own), token_id=token_id)
                for (text, token_id), own in zip(_tokens(results, answer), log_prob, strict=False)
            ]
            title = f"{'guided' if guided else 'free'} answer {prompt + 1}"
            text = "".join(token.token for token in tokens)
            found[title] = Record(unescaped(str(results["prompt"][prompt].item())), text, tuple(tokens))
    return {title: record for title, record in found.items() if record.tokens}


def findings(results: xr.Dataset) -> list[str]:
    """What the guide cost of each prompt's answers, and whether the seam shows in the tokens."""
    said = []
    for prompt in range(results.sizes["prompt_number"]):
        guided, free = (results.isel(answer=_answers(results, prompt, g)) for g in (True, False))
        log_prob = float(guided["log_prob"].sum("token").mean())
        own = float(free["log_prob"].sum("token").mean())
        allowed = float(np.nansum(np.log(guided["allowed_mass"].values), axis=1).mean())
        said.append(
            f"“{_prompt(results, prompt, 60)}”: the guided answer has {log_prob:.2f} nats under the plain model, the "
            f"model's own {own:.2f}; what the guide allowed held {allowed:.2f} nats of the probability "
            f"({number(float(np.exp(allowed)))} of it)."
        )
        if bool(results["seam_differs"][prompt]):
            together, apart = (unescaped(str(results[f"seam_{name}"][prompt].item())) for name in ("together", "apart"))
            said.append(
                f"Warning: prefix and prompt tokenise differently together ({visible(together)}) and apart "
                f"({visible(apart)}); {results.attrs['tokenised']} is what was used."
            )
    return said


def _answers(results: xr.Dataset, prompt: int, guided: bool) -> list[int]:
    chosen = (results["prompt_of"].values == prompt) & (results["guided"].values == guided)
    return np.flatnonzero(chosen).tolist()


def _tokens(results: xr.Dataset, answer: int) -> list[tuple[str, int | None]]:
    texts = token_texts(results)
    return [texts[entry] for entry in results["entry"].values[answer] if entry != NONE]


def _texts(results: xr.Dataset, answer: int) -> list[str]:
    return [text for text, _ in _tokens(results, answer)]


def _given(one: xr.Dataset) -> int:
    return int(one["prefix_tokens"])


def _prompt(results: xr.Dataset, prompt: int, most: int = 1000) -> str:
    shown = visible(unescaped(str(results["prompt"][prompt].item())))
    return shown if len(shown) <= most else shown[: most - 1] + "…"
