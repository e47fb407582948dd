"""An untrained model of the same architecture, with fresh random weights: the null for any claim about training."""

import copy
from typing import Any

import torch

from mechlist.errors import ModelError
from mechlist.models.language_model import LanguageModel, wrap
from mechlist.models.quiet import quiet
from mechlist.models.tl import is_bridge


def untrained_model(model: LanguageModel, seed: int) -> LanguageModel:
    """A model of the same architecture and type with TransformerLens's initial weights, on the same device.

    It takes as much memory again as the model. The global random state is left as it was.

    Raises:
        ModelError: a model that is not a HookedTransformer.
    """
    if is_bridge(model.module):
        raise ModelError("An untrained model needs a HookedTransformer; this model runs through TransformerBridge.")
    from transformer_lens import HookedTransformer

    cfg: Any = copy.deepcopy(model.module.cfg)
    cfg.init_weights = True
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        # TransformerLens seeds the global generator again when the configuration carries a seed.
        cfg.seed = None
        module = HookedTransformer(cfg, move_to_device=False)
        module.move_model_modules_to_device()
    named = model.info | {"name": f"untrained model like {model.info.get('name')}"}
    return wrap(module.eval(), named, model.bos_token_id, model.tokenizer, model.shape.n_ctx)
