"""Records from a model: what it says of every token of answers that are there already."""

from collections.abc import Sequence

from mechlist.decode.reading import read_predictions
from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.runner import Runner


def records_of(
    runner: Runner, prompts: Sequence[tuple[str, Sequence[int]]], answers: Sequence[Sequence[int]], alternatives: int
) -> list[Record]:
    """What the model says of each token of the answers, in one batched pass.

    Args:
        runner: with the model and its tokenizer.
        prompts: text, as a person gave it, and tokens of each.
        answers: tokens that stand behind each prompt.
        alternatives: most probable tokens that are kept in each place.

    Raises:
        InputError: as `read_predictions`.
    """
    _, found = read_predictions(runner, *sequences_of([tokens for _, tokens in prompts], answers), alternatives)
    ids = sorted({*found.top.flatten().tolist(), *(token for answer in answers for token in answer)} - {-1})
    text_of = dict(zip(ids, runner.token_texts(ids), strict=True))
    records = []
    for row, ((text, _), answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = []
        for place, token in enumerate(answer):
            others = zip(found.top[row, place].tolist(), found.top_log_prob[row, place].tolist(), strict=True)
            tokens.append(
                RecordedToken(
                    token=text_of[token],
                    log_prob=float(found.log_prob[row, place]),
                    alternatives=tuple(Alternative(text_of[other], log_prob, other) for other, log_prob in others),
                    token_id=token,
                    rank=int(found.rank[row, place]),
                    entropy=float(found.entropy[row, place]),
                )
            )
        response = runner.tokenizer.decode(list(answer), clean_up_tokenization_spaces=False)
        records.append(Record(text, response, tuple(tokens)))
    return records


def sequences_of(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[list[list[int]], list[int]]:
    """Prompts with their answers, and where each answer begins."""
    pairs = zip(prompts, answers, strict=True)
    return [[*prompt, *answer] for prompt, answer in pairs], [len(prompt) for prompt in prompts]
