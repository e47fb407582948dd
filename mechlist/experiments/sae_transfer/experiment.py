"""Whether SAEs may be used on these lists: reconstruction, cross-entropy recovered, and the metric after the splice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from mechlist.datasets.lists.list_set import ListSet
from mechlist.experiment import Claim
from mechlist.experiments.list_experiment import MadeListExperiment
from mechlist.experiments.list_pairs import At
from mechlist.experiments.sae_features import counted_positions
from mechlist.experiments.sae_transfer import report as output
from mechlist.metrics.answers import LogitDifference
from mechlist.registry import register
from mechlist.runner import Batch, Runner
from mechlist.runner.positions import gather
from mechlist.runner.raw import basis_words, raw_activations
from mechlist.sae.load import hooks_of, places, stream_saes
from mechlist.sae.transfer import cross_entropy, reconstruction, spliced
from mechlist.text import visible


@register("sae-transfer")
@dataclass(frozen=True, kw_only=True)
class SaeTransfer(MadeListExperiment):
    """Check SAEs on these lists before they are used: explained variance, L0, cross-entropy and the metric kept."""

    saes: tuple[str, ...] = ()
    """SAEs: directories (of one or of several; DIR@HOOK where the files do not say the hook) or RELEASE:ID; by default
    the built-in ones of the model, for Gemma 2 2b those of the original study."""
    at: At = "item"
    """Where the metric is read: at the last item's last token, a blank minus a line break; or at its line break, end of
    turn minus hyphen."""
    keep_special: bool = False
    """Splice at BOS and other special tokens too, where activations are unlike all others."""

    def run(self, runner: Runner) -> xr.Dataset:
        """Each SAE on all lists: how it reconstructs, and what the model predicts with it in place."""
        where = places(self.saes, runner.language_model.info["name"])
        hooks = hooks_of(runner, where)
        runner = raw_activations(runner, hooks)
        data = self.data(runner)
        counted, scored = self._positions(runner, data)
        metric = _Metric(runner, data, self.at)
        columns: dict[str, list[Any]] = {name: [] for name in ("explained_variance", "l0", "n_used", "n_features")}
        columns |= {name: [] for name in ("ce_clean", "ce_spliced", "ce_zero", "ce_recovered", "spliced")}
        for sae in stream_saes(runner, where):
            made = reconstruction(runner, sae, data.rows, counted)
            loss = cross_entropy(runner, sae, data.rows, counted, scored)
            with runner.intervene(spliced(sae, counted)):
                after = metric.of_lists()
            values = (made.explained_variance, made.l0, int(made.active.sum()), sae.d_sae)
            values += (loss.clean, loss.spliced, loss.zero, loss.recovered, after)
            for own, value in zip(columns.values(), values, strict=True):
                own.append(value)
        after = np.stack(columns.pop("spliced"), axis=1)
        variables: dict[str, Any] = {name: ("sae", values) for name, values in columns.items()}
        variables |= {"metric": ("list", metric.of_lists()), "metric_spliced": (("list", "sae"), after)}
        coords = {"sae": [visible(place.name) for place in where], "hook": ("sae", hooks)}
        results = xr.Dataset(variables, {**coords, "topic": ("list", [visible(topic) for topic in data.topic])})
        return results.assign_attrs(
            direction=metric.name,
            keep_special=self.keep_special,
            basis=basis_words(runner),
            model=runner.language_model.info["name"],
        )

    def figures(self, results: xr.Dataset) -> dict[str, go.Figure]:
        """Each SAE's scores, and the metric of every list before and after the splice."""
        return output.figures(results)

    def tables(self, results: xr.Dataset) -> dict[str, pd.DataFrame]:
        """One row an SAE."""
        return {"saes": output.table(results)}

    def findings(self, results: xr.Dataset) -> list[str]:
        """Which SAEs pass, and which must not be trusted here."""
        return output.findings(results)

    def claims(self, results: xr.Dataset) -> list[Claim]:
        """The most telling of it, in a line."""
        return output.claims(results)

    def _positions(self, runner: Runner, data: ListSet) -> tuple[Tensor, Tensor]:
        """Where SAEs are spliced in, and which next tokens are scored: those of the lists themselves."""
        counted = counted_positions(runner, data.tokens, data.lengths, keep_special=self.keep_special)
        return counted, data.scored


class _Metric:
    """The logit difference that decides, of every list that has its position; NaN for others."""

    def __init__(self, runner: Runner, data: ListSet, at: At) -> None:
        self._runner, self._rows = runner, data.rows
        direction = data.directions[0 if at == "break" else 1]
        self.name = direction.name
        where = torch.from_numpy(data.positions(direction.role, "end")[:, 0])
        self._there, self._where = where >= 0, where.clamp(min=0)
        lengths = torch.tensor([len(row) for row in data.rows])
        tokens = torch.nn.utils.rnn.pad_sequence(list(data.rows), batch_first=True)
        metric = LogitDifference(answer=[direction.answer], wrong=[direction.wrong], position=self._where)
        self._measure = metric.prepare(tokens, lengths, runner.shape.d_vocab_out)

    def of_lists(self) -> np.ndarray:
        """With the interventions that are in place."""
        runner, measure = self._runner, self._measure

        def function(batch: Batch) -> dict[str, Tensor]:
            finals = gather(batch.normalized, batch.positions)
            width, most = runner.shape.d_vocab_out, runner.shares.metric_logits
            return {"metric": measure(finals, batch.rows.index, finals, runner.language_model.unembed, width, most)}

        values = runner.map(self._rows, function, positions=measure.read, label="The metric of lists")["metric"]
        return torch.where(self._there, values.double(), torch.nan).numpy()
