"""SAEs by name: a local directory, or a release of sae_lens with an id; checked against a model before their use."""

import difflib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechlist.errors import InputError
from mechlist.models.quiet import quiet
from mechlist.models.sources.hub import OR_DIRECTORY, explain
from mechlist.runner import Runner
from mechlist.sae.formats import About, converted, format_of, read_about
from mechlist.sae.sae import Sae, require_linear
from mechlist.types import DType, format_bytes

BUILTIN_ROOT = Path(__file__).parent / "builtin"
"""A folder a model, with a folder an SAE."""
OF_STUDY = {
    "gemma-2-2b": (
        *(f"gemma-scope-2b-pt-res-canonical:layer_{layer}/width_16k/canonical" for layer in (0, 5, 10, 15, 20)),
        *(f"gemma-scope-2b-pt-att-canonical:layer_{layer}/width_16k/canonical" for layer in (2, 7, 14, 18, 22)),
    )
}
"""By family the SAEs of the original study, for models without built-in ones."""
FORMS = "a directory (of an SAE or of several), or RELEASE:ID of sae_lens"
_TUNED = ("-it", "-pt", "-instruct", "-chat")
"""Ends of the names of one and the same family: an SAE of a base model may be tried on its chat model."""
_SAME = {"gpt2-small": "gpt2"}
_UNTOLD = "{name} does not say where it was trained: give its hook as {name}@HOOK."


@dataclass(frozen=True)
class Place:
    """Where an SAE is to be found."""

    name: str
    """As people read it."""
    folder: Path | None
    """Of a local one."""
    release: str = ""
    number: str = ""
    """Its id in the release."""
    hook: str = ""
    """Given by hand, where its files do not say."""


def builtin_saes(model: str) -> list[str]:
    """Names of the SAEs that ship with mechlist for a model, such as `list-tiny/layer_0`, from the first layer on."""
    folder = BUILTIN_ROOT / model
    if not model or "/" in model or not folder.is_dir():
        return []
    return [f"{model}/{one.name}" for one in sorted(folder.iterdir(), key=_by_number) if format_of(one) is not None]


def places(names: Sequence[str], model: str = "") -> list[Place]:
    """Where the named SAEs are, in their order; a folder of SAEs gives all of them.

    Args:
        names: `DIR`, `DIR@HOOK`, `RELEASE:ID`, or built-in ones such as `list-tiny/layer_3`; without, all built-in SAEs
            of the model, or for Gemma 2 2b those of the original study.
        model: its name.

    Raises:
        InputError: none at all, one twice, a folder without an SAE, an unknown release or id with its closest names.
    """
    names = names or builtin_saes(model) or OF_STUDY.get(family(model), ())
    if not names:
        what = f" for {model}" if model else ""
        raise InputError(f"No built-in SAEs are shipped{what}: give some with --saes, each {FORMS}.")
    found = [place for name in names for place in _places(name)]
    twice = next((p.name for i, p in enumerate(found) if p.name in [other.name for other in found[:i]]), None)
    if twice is not None:
        raise InputError(f"saes must name each SAE once; {twice} is there twice.")
    return found


def load_sae(place: Place, *, device: str = "cpu", dtype: DType = "float32") -> Sae:
    """Read one SAE, with nothing checked but itself.

    Raises:
        InputError: sae_lens is missing, files that cannot be read, weights that are no numbers, an SAE of a kind that
            is not supported.
    """
    lens = _sae_lens()
    about = None if place.folder is None else _about(place)
    with quiet():
        module = (
            _from_hub(lens, place, device, dtype) if about is None else _from_disk(lens, place, about, device, dtype)
        )
    if getattr(module.cfg, "rescale_acts_by_decoder_norm", False):
        # Then W_dec / norm are the directions: folded in, W_dec itself are.
        module.fold_W_dec_norm()
        module.cfg.rescale_acts_by_decoder_norm = False
    module.turn_off_forward_pass_hook_z_reshaping()
    known = module.cfg.metadata
    if known.hook_name_out or not hasattr(module, "b_dec"):
        raise InputError(f"{place.name} is a transcoder, which reads one hook and writes another: give an SAE.")
    hook = place.hook or (about.hook if about else "") or str(known.hook_name or "")
    if not hook:
        raise InputError(_UNTOLD.format(name=place.name))
    model = (about.model if about else "") or str(known.model_name or "")
    sae = Sae(place.name, hook, model, str(known.neuronpedia_id or ""), module.eval().requires_grad_(False))
    require_linear(sae)
    return sae


def check_fit(runner: Runner, *, name: str, hook: str, d_in: int, model: str) -> None:
    """Whether an SAE fits the model; a base model's SAE may be used on the model that was tuned from it.

    Raises:
        InputError: another hook, width or model.
    """
    shape = runner.shape
    if hook not in runner.language_model.hook_names:
        close = difflib.get_close_matches(hook, runner.language_model.hook_names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise InputError(f"{name} was trained at {hook!r}, a hook that the model does not have.{hint}")
    width = shape.n_heads * shape.d_head if hook.endswith("hook_z") else shape.d_model
    if d_in != width:
        raise InputError(f"{name} takes activations of width {d_in}; at {hook} the model has {width}.")
    own = str(runner.language_model.info["name"])
    if model and not Path(own).is_dir() and family(model) != family(own):
        raise InputError(f"{name} was trained on {model}, and the model is {own}.")


def hooks_of(runner: Runner, where: Sequence[Place]) -> list[str]:
    """The hook of each SAE, checked against the model; of local ones no weights are read for it.

    Raises:
        InputError: as `check_fit`; an SAE that memory does not hold, or that does not say where it was trained.
    """
    return [_checked_hook(runner, place) for place in where]


def stream_saes(runner: Runner, where: Sequence[Place], dtype: DType = "float32") -> Iterator[Sae]:
    """One SAE after the other, checked against the model; its weights are gone once the next is asked for.

    Raises:
        InputError: as `load_sae` and `hooks_of`.
    """
    for place in where:
        with opened_sae(runner, place, dtype) as sae:
            yield sae


@contextmanager
def opened_sae(runner: Runner, place: Place, dtype: DType = "float32") -> Iterator[Sae]:
    """One SAE, checked against the model, whose weights are gone behind the block.

    A module of sae_lens holds itself, so that Python would keep its weights until it looks for such circles.
    """
    sae = fitting_sae(runner, place, dtype)
    try:
        yield sae
    finally:
        for weight in sae.module.parameters():
            weight.data = weight.data.new_empty(0)


def fitting_sae(runner: Runner, place: Place, dtype: DType = "float32") -> Sae:
    """One SAE, checked against the model, to keep; raises as `stream_saes`."""
    sae = load_sae(place, device=str(runner.language_model.device), dtype=dtype)
    check_fit(runner, name=sae.name, hook=sae.hook, d_in=sae.d_in, model=sae.model)
    return sae


def _checked_hook(runner: Runner, place: Place) -> str:
    if place.folder is None:
        (sae,) = stream_saes(runner, [place])
        return sae.hook
    about = _about(place)
    hook = place.hook or about.hook
    if not hook:
        raise InputError(_UNTOLD.format(name=place.name))
    check_fit(runner, name=place.name, hook=hook, d_in=about.d_in, model=about.model)
    need = 2 * 4 * about.d_in * about.d_sae
    if need > runner.memory:
        raise InputError(
            f"memory is too small for even one SAE: {place.name} needs {format_bytes(need)}, the bound is "
            f"{format_bytes(runner.memory)}."
        )
    return hook


def family(model: str) -> str:
    """Name of a model without its owner and without what says that it was tuned."""
    name = model.rsplit("/", 1)[-1].lower()
    for end in _TUNED:
        name = name.removesuffix(end)
    return _SAME.get(name, name)


def _places(name: str) -> list[Place]:
    path, _, hook = name.partition("@")
    if path in builtin_saes(path.partition("/")[0]):
        return [Place(name=path, folder=BUILTIN_ROOT / path, hook=hook)]
    folder = Path(path).expanduser()
    if folder.is_dir():
        if format_of(folder) is not None:
            return [Place(name=path, folder=folder, hook=hook)]
        inside = [
            one for one in sorted(folder.iterdir(), key=_by_number) if one.is_dir() and format_of(one) is not None
        ]
        if not inside or hook:
            raise InputError(
                f"{path} holds no SAE: neither cfg.json with sae_weights.safetensors, nor params.npz, nor config.json "
                "with params.safetensors, in it or in its folders."
            )
        return [Place(name=str(one), folder=one) for one in sorted(inside, key=_by_number)]
    release, colon, number = name.partition(":")
    there = _releases()
    if release not in there:
        close = difflib.get_close_matches(release, there, n=3, cutoff=0.4)
        hint = f" Closest releases: {', '.join(close)}." if close else ""
        raise InputError(f"saes must be {FORMS}; there is no directory or release {release!r}.{hint}")
    ids = there[release]
    if number not in ids:
        close = difflib.get_close_matches(number, ids, n=3, cutoff=0.0 if colon else 1.0) or list(ids)[:3]
        raise InputError(f"{release} has no SAE {number!r}; closest are {', '.join(close)}.")
    return [Place(name=name, folder=None, release=release, number=number)]


def _by_number(folder: Path) -> tuple[object, ...]:
    """layer_2 before layer_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", folder.name))


def _about(place: Place) -> About:
    assert place.folder is not None
    form = format_of(place.folder)
    if form is None:
        raise InputError(f"{place.folder} holds no SAE any more.")
    return read_about(place.folder, form)


def _sae_lens() -> Any:
    """The package, which is an extra.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("sae_lens") is None:
        raise InputError("SAEs need the package sae-lens, which is not installed: pip install 'mechlist[sae]'.")
    with quiet():
        import sae_lens
    return sae_lens


def _releases() -> dict[str, list[str]]:
    """Ids by release."""
    _sae_lens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return {release: list(one.saes_map) for release, one in get_pretrained_saes_directory().items()}


def _from_disk(lens: Any, place: Place, about: About, device: str, dtype: DType) -> Any:
    if about.format != "sae_lens":

        def convert(path: Any, device: str, cfg_overrides: Any = None) -> Any:  # noqa: ARG001 (sae_lens passes it)
            return converted(Path(path), device, dtype)

        return lens.SAE.load_from_disk(place.folder, device=device, dtype=dtype, converter=convert)
    try:
        return lens.SAE.load_from_disk(place.folder, device=device, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{place.folder} is not an SAE that can be read: {line}") from error


def _from_hub(lens: Any, place: Place, device: str, dtype: DType) -> Any:
    try:
        return lens.SAE.from_pretrained(place.release, place.number, device=device, dtype=dtype)
    except Exception as error:
        said = explain(error, place.name).replace(OR_DIRECTORY, "or give a local directory with --saes DIR")
        raise InputError(said) from error
