"""What a metric loses when features are set to 0 and everything else, the SAE's error included, is kept."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechlist import effort
from mechlist.errors import MechlistError
from mechlist.runner import Batch, Intervention, Rows, Runner
from mechlist.runner.positions import gather
from mechlist.sae.attribution import SUMMED
from mechlist.sae.sae import Sae, flat
from mechlist.sae.traces import Question


def without_features(
    sae: Sae, features: Int[Tensor, " prompt"], activations: Float[Tensor, "prompt position"]
) -> Intervention:
    """Take one feature a prompt out of the activation, at the positions where `activations` is not 0.

    With the error kept, setting feature i from f_i to 0 is to take f_i W_dec_i off the activation.
    """
    directions = sae.decoder[features.to(sae.decoder.device)]

    def change(activation: Tensor, rows: Rows) -> Tensor:
        index = rows.index.to(activations.device)
        size = activations[index, : activation.shape[1]]
        taken = size[:, :, None].to(activation) * directions[rows.index.to(directions.device)][:, None].to(activation)
        return activation - taken.reshape(activation.shape)

    return Intervention(sae.hook, change)


def exact_effects(
    runner: Runner,
    sae: Sae,
    question: Question,
    *,
    prompt: Sequence[int],
    feature: Sequence[int],
    position: Sequence[int],
    counted: Sequence[Sequence[int]],
) -> Float[Tensor, " ablation"]:
    """The metric minus the metric with a feature set to 0, error kept: what its attribution predicts, same sign.

    Args:
        runner: with the model.
        sae: the features' SAE.
        question: prompts and metric.
        prompt: of each ablation.
        feature: of each ablation.
        position: of each ablation; SUMMED for all positions that count.
        counted: positions that count, of each prompt of the question.

    Raises:
        MechlistError: an ablation of an active feature that leaves the model's output as it is.
    """
    asked = question.select(prompt)
    rows = [tokens[:length] for tokens, length in zip(asked.tokens, asked.lengths.tolist(), strict=True)]
    which, numbers = torch.tensor(list(prompt)), torch.tensor(list(feature))
    alone, back = which.unique(return_inverse=True)
    plain = [question.tokens[i][: int(question.lengths[i])] for i in alone.tolist()]
    x = flat(runner.capture(plain, sae.hook)[sae.hook])
    device, size = sae.decoder.device, torch.zeros(asked.tokens.shape)
    for row, (own, number, at) in enumerate(zip(back.tolist(), feature, position, strict=True)):
        where = list(counted[prompt[row]]) if at == SUMMED else [at]
        size[row, where] = sae.encode(x[own, where].to(device))[:, number].float().cpu()
    with runner.intervene(without_features(sae, numbers, size)):
        changed = metric_of(runner, asked, rows)
    base = metric_of(runner, question.select(alone.tolist()), plain)
    same = (changed["final"] == base["final"][back]).flatten(1).all(dim=1) & (size != 0).any(dim=1)
    if same.any() and not effort.sampled():
        i = int(same.nonzero()[0, 0])
        raise MechlistError(
            f"Setting feature {feature[i]} of {sae.name} to 0 at position {position[i]} of list {prompt[i]} leaves the "
            "model's output as it is, though it is active there: the ablation did not happen, or is below rounding."
        )
    return question.sign * (base["metric"][back] - changed["metric"]).double()


def metric_of(runner: Runner, question: Question, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """The metric of each prompt, and the final stream that it reads."""
    measure, model = question.measure(runner), runner.language_model

    def function(batch: Batch) -> dict[str, Tensor]:
        finals = gather(batch.normalized, batch.positions)
        width, most = runner.shape.d_vocab_out, runner.shares.metric_logits
        value = measure(finals, batch.rows.index, finals, model.unembed, width, most)
        return {"metric": value, "final": finals}

    return runner.map(rows, function, positions=measure.read, label="Setting features to 0")
