"""What patching of lists shows in a line, from its saved results alone."""

import xarray as xr

from mechlist.experiment import Claim
from mechlist.experiments.effects import largest, read, shown
from mechlist.experiments.list_patch.statistics import STREAM, cells
from mechlist.text import joined
from mechlist.types import head_name

SIDE = "denoising"


def claims(results: xr.Dataset) -> list[Claim]:
    """Of heads, or of the stream, the strongest place that is not the change itself; as a share of the whole effect."""
    if SIDE not in results["side"].values:
        return []
    whole = read(results, "mean_gap").sel(side=SIDE, drop=True)
    told = [_strongest(results, site) for site in results.attrs["sites"] if site != STREAM][:2]
    letter = str(results.attrs["direction"])[0]
    start = f"Of the {shown(whole)} logits of {letter} between the two runs"
    if not told:
        return []
    return [Claim(f"{start}, {joined(told)}.", next(site for site in results.attrs["sites"] if site != STREAM))]


def _strongest(results: xr.Dataset, site: str) -> str:
    best = largest(cells(results, site, SIDE))
    layer = int(best["layer"])
    head = next((head_name((layer, int(best[dim]))) for dim in ("head", "kv_head") if dim in best.coords), "")
    what = {"attn_out": "attention", "mlp_out": "MLP"}.get(site, site)
    name = f"{head} ({site})" if head else f"{what} of layer {layer}"
    return f"{name} at the {best['role'].item()} carries {float(best['share']):.0%}"
