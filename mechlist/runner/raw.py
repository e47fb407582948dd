"""The model in the basis of Hugging Face: no norm folded into other weights, nothing centred.

Where a result is about a model's own coordinates (its hidden dimensions, its unembedding as published), processed
weights would answer another question: folding multiplies row j of W_U by the final norm's gain of dimension j.
"""

from collections.abc import Sequence
from typing import Any

from mechlist.runner.runner import Runner
from mechlist.types import Processing

RAW = Processing(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
_CHANGES_OUTPUT = ("fold_ln", "center_writing_weights", "center_unembed")
_CHANGES_STREAM = ("center_writing_weights",)
_CHANGES_VALUES = ("fold_value_biases",)
_VALUES = ("hook_v", "hook_z")


def raw_runner(runner: Runner) -> Runner:
    """The same model with its weights as published: the Runner itself if they are, or a second one.

    A second one is loaded from the same files, and takes the memory of the weights again. `mechlist run` has no need of
    it: it loads the model of an experiment with `raw_weights` like this at once.
    """
    return runner if _untouched(runner, _CHANGES_OUTPUT) else runner.reloaded(RAW)


def has_raw_stream(runner: Runner) -> bool:
    """Whether the residual stream is that of Hugging Face, as folding leaves it and centring does not."""
    return _untouched(runner, _CHANGES_STREAM)


def has_raw_activation(runner: Runner, hook: str) -> bool:
    """Whether the activation at a hook (residual stream, what is added to it, values, z) is that of Hugging Face."""
    return _untouched(runner, _CHANGES_VALUES if hook.endswith(_VALUES) else _CHANGES_STREAM)


def raw_activations(runner: Runner, hooks: Sequence[str]) -> Runner:
    """The Runner itself where the hooks have the activations of Hugging Face; else a second one, as `raw_runner`."""
    return runner if all(has_raw_activation(runner, hook) for hook in hooks) else runner.reloaded(RAW)


def basis_words(runner: Runner) -> str:
    """In which basis the Runner's weights are, for attributes and captions."""
    done = _processing(runner)
    if isinstance(done, str):
        return f"weights {done}" if done != "none" else "weights as Hugging Face has them"
    changed = [name for name in _CHANGES_OUTPUT if done.get(name)]
    return f"weights after {', '.join(changed)}" if changed else "weights as Hugging Face has them"


def _untouched(runner: Runner, names: tuple[str, ...]) -> bool:
    done = _processing(runner)
    return isinstance(done, str) or not any(done.get(name) for name in names)


def _processing(runner: Runner) -> Any:
    """What was done when the model was loaded; a model that was built elsewhere is taken as it is."""
    return runner.language_model.info.get("processing", "as given")
