"""Every architecture that is at hand, tiny and random, against Hugging Face's own forward pass and hooks.

`python -m experiments.benchmarks.architectures` writes the table ARCHITECTURES.md beside this file. Each weight, norm
and bias is moved from where it starts, so that a convention that is wrong shows. Hugging Face is run with eager
attention in float32; its hooks are torch's own, on its own modules.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mechlist import LogitDifference, Runner, patch_grid
from mechlist.decode import Sampling, generate
from mechlist.errors import MechlistError
from mechlist.models.quiet import quiet

TABLE = Path(__file__).parent / "ARCHITECTURES.md"
WINDOW, LONG, SHORT, NEW = 8, 40, 11, 8
"""Tokens of a window, of the prompt for logits, of the prompts that are patched, and that are generated."""
ANSWER, WRONG = 5, 6

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OLD: dict[str, Any] = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SHARED = SIZES | {"num_key_value_heads": 2}
FOUR = {"num_hidden_layers": 4, "sliding_window": WINDOW}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.3,
    "logits_scaling": 4.0,
}
LATENT = SIZES | {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
FALCON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "bias": True}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2Config", OLD),
    "GPT-2, scores scaled by layer": ("GPT2Config", OLD | {"scale_attn_by_inverse_layer_idx": True}),
    "GPT-Neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 2]],
            "window_size": WINDOW,
            "intermediate_size": 48,
        },
    ),
    "GPT-J": ("GPTJConfig", OLD | {"rotary_dim": 4}),
    "GPT-NeoX (Pythia)": ("GPTNeoXConfig", SIZES | {"rotary_pct": 0.25}),
    "GPT-NeoX, sequential": ("GPTNeoXConfig", SIZES | {"rotary_pct": 0.25, "use_parallel_residual": False}),
    "GPT-NeoX, no biases": ("GPTNeoXConfig", SIZES | {"rotary_pct": 0.25, "attention_bias": False}),
    "OPT": ("OPTConfig", SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "OPT, narrow embedding": ("OPTConfig", SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    "BLOOM": ("BloomConfig", {"vocab_size": 97, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "MPT": ("MptConfig", {"vocab_size": 97, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    "Falcon": ("FalconConfig", FALCON | {"multi_query": True}),
    "Falcon, grouped keys": ("FalconConfig", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon, ALiBi": ("FalconConfig", FALCON | {"multi_query": False, "alibi": True, "parallel_attn": False}),
    "GPT-BigCode": ("GPTBigCodeConfig", OLD),
    "StarCoder 2": ("Starcoder2Config", SHARED | {"sliding_window": WINDOW}),
    "Llama": ("LlamaConfig", SHARED),
    "Llama, biases": ("LlamaConfig", SHARED | {"attention_bias": True, "mlp_bias": True}),
    "Llama, yarn": ("LlamaConfig", SHARED | {"rope_parameters": YARN}),
    "Llama, llama3 rope": ("LlamaConfig", SHARED | {"rope_parameters": LLAMA3}),
    "Mistral": ("MistralConfig", SHARED | {"sliding_window": WINDOW}),
    "Mixtral": ("MixtralConfig", SHARED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Gemma": ("GemmaConfig", SIZES | {"num_key_value_heads": 1, "head_dim": 16}),
    "Gemma 2": ("Gemma2Config", SHARED | FOUR | {"head_dim": 16, "query_pre_attn_scalar": 24}),
    "Gemma 3": (
        "Gemma3TextConfig",
        SHARED | FOUR | {"num_hidden_layers": 6, "head_dim": 16, "query_pre_attn_scalar": 24},
    ),
    "Gemma 3, softcaps": (
        "Gemma3TextConfig",
        SHARED | FOUR | {"head_dim": 16, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.5},
    ),
    "Qwen 2": ("Qwen2Config", SHARED),
    "Qwen 3": ("Qwen3Config", SHARED | {"head_dim": 8}),
    "Qwen 2 MoE": ("Qwen2MoeConfig", SHARED | EXPERTS | {"shared_expert_intermediate_size": 24}),
    "Qwen 3 MoE": ("Qwen3MoeConfig", SHARED | EXPERTS | {"head_dim": 8}),
    "OLMo": ("OlmoConfig", SHARED | {"clip_qkv": 0.4}),
    "OLMo 2": ("Olmo2Config", SHARED),
    "OLMo 3": ("Olmo3Config", SHARED | FOUR),
    "OLMoE": ("OlmoeConfig", SHARED | {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 0.4}),
    "Phi": ("PhiConfig", SIZES | {"partial_rotary_factor": 0.5}),
    "Phi-3": ("Phi3Config", SHARED | {"sliding_window": WINDOW}),
    "StableLM": ("StableLmConfig", SHARED),
    "StableLM, parallel": (
        "StableLmConfig",
        SHARED | {"use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True},
    ),
    "SmolLM 3": ("SmolLM3Config", SHARED | {"num_hidden_layers": 4}),
    "Granite": ("GraniteConfig", SHARED | MULTIPLIERS),
    "Granite MoE": ("GraniteMoeConfig", SHARED | MULTIPLIERS | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Arcee": ("ArceeConfig", SHARED),
    "EXAONE 4": ("Exaone4Config", SHARED | FOUR | {"layer_types": ALTERNATING, "sliding_window_pattern": "LG"}),
    "GLM": ("GlmConfig", SHARED | {"head_dim": 8}),
    "GLM 4": ("Glm4Config", SHARED | {"head_dim": 8}),
    "Nemotron": ("NemotronConfig", SHARED),
    "Cohere": ("CohereConfig", SHARED),
    "Cohere 2": ("Cohere2Config", SHARED | FOUR | {"layer_types": ALTERNATING}),
    "DeepSeek V2": ("DeepseekV2Config", LATENT),
    "DeepSeek V3": ("DeepseekV3Config", LATENT),
    "Mamba": ("MambaConfig", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8}),
}


@dataclass(frozen=True)
class Result:
    """What was found of one architecture."""

    through: str
    """HookedTransformer or TransformerBridge; or why it was refused."""
    path: str = ""
    log_prob: float = float("nan")
    """Worst difference of a log-probability from Hugging Face's, in nats."""
    patched: tuple[float | str, ...] = ()
    """By site of `SITES`: worst difference of a patched logit difference from Hugging Face's, or why there is none."""
    same_text: bool | str = False
    """Whether greedy generation writes the same tokens."""


SITES = (("resid_pre", "position"), ("z", "head"), ("mlp_out", "position"))


def save(name: str, directory: Path) -> Path:
    """A tiny random model of an architecture."""
    kind, values = MODELS[name]
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**values))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(directory)
    return directory


def examine(directory: Path) -> Result:
    """Load the model in a directory and compare."""
    try:
        runner = Runner.load(str(directory), device="cpu", progress=False)
    except MechlistError as error:
        return Result(str(error).replace(str(directory), "the directory"))
    with quiet():
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    tokens = torch.randint(9, 97, (1, LONG), generator=torch.Generator().manual_seed(1))
    ours = runner.logits(tokens).log_softmax(-1)
    with torch.no_grad():
        expected = theirs(tokens).logits.log_softmax(-1)
    patched = tuple(_patched(runner, theirs, site, per) for site, per in SITES)
    path = runner.language_model.one_by_one().because or "layer by layer"
    through = str(runner.language_model.info["class"])
    return Result(through, path, float((ours - expected).abs().max()), patched, _same_text(runner, theirs))


def _patched(runner: Runner, theirs: Any, site: str, per: str) -> float | str:
    generator = torch.Generator().manual_seed(2)
    base, source = (torch.randint(9, 97, (1, SHORT), generator=generator) for _ in range(2))
    metric = LogitDifference(answer=ANSWER, wrong=WRONG)
    try:
        found = patch_grid(runner, base=base, source=source, site=site, per=per, metric=metric)["patched"].values[0]
        expected = torch.stack(
            [
                torch.stack([_cell(theirs, base, source, site, layer, place) for place in range(found.shape[1])])
                for layer in range(found.shape[0])
            ]
        )
    except MechlistError as error:
        return str(error)
    assert expected.std() > 1e-4
    return float((torch.tensor(found) - expected).abs().max())


def _cell(theirs: Any, base: Tensor, source: Tensor, site: str, layer: int, place: int) -> Tensor:
    """The metric of the base run with one part of the source's put in, by hooks of torch on Hugging Face's modules."""
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.detach().clone())
        return x

    def put(x: Tensor) -> Tensor:
        out = x.clone()
        if site == "z":
            size = x.shape[-1] // _heads(theirs)
            out[..., place * size : (place + 1) * size] = kept[0][..., place * size : (place + 1) * size]
        else:
            # OPT's MLP sees all tokens of all prompts as one axis.
            out[..., place, :] = kept[0][..., place, :]
        return out

    with torch.no_grad():
        with _changed(theirs, site, layer, keep):
            theirs(source)
        with _changed(theirs, site, layer, put):
            logits = theirs(base).logits[0, -1]
    return logits[ANSWER] - logits[WRONG]


def _heads(theirs: Any) -> int:
    config = theirs.config
    return int(getattr(config, "num_attention_heads", None) or config.n_heads)


@contextmanager
def _changed(theirs: Any, site: str, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    block = next(m for m in theirs.modules() if isinstance(m, nn.ModuleList) and len(m) > 1)[layer]
    if site == "resid_pre":
        handle = block.register_forward_pre_hook(_on_input(change), with_kwargs=True)
    elif site == "z":
        handle = _module(block, *_PROJECTIONS).register_forward_pre_hook(_on_input(change), with_kwargs=True)
    else:
        handle = _module(block, *_MLPS).register_forward_hook(_on_output(change))
    try:
        yield
    finally:
        handle.remove()


_PROJECTIONS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attention.dense",
    "self_attention.dense",
    "attn.attention.out_proj",
    "attn.out_proj",
    "attn.c_proj",
)
_MLPS = (
    "post_feedforward_layernorm",
    "post_mlp_layernorm",
    "mlp.dense_4h_to_h",  # of BLOOM and MPT the module adds the residual stream itself
    "ffn.down_proj",
    "mlp",
    "block_sparse_moe",
    "fc2",
)


def _module(block: nn.Module, *names: str) -> nn.Module:
    there = dict(block.named_modules())
    found = next((there[name] for name in names if name in there), None)
    if found is None:
        raise MechlistError(f"{type(block).__name__} has none of {', '.join(names)}.")
    return found


def _on_input(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return hook


def _on_output(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(_: nn.Module, __: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    return hook


def _same_text(runner: Runner, theirs: Any) -> bool | str:
    prompt = torch.randint(9, 97, (1, SHORT), generator=torch.Generator().manual_seed(3))
    try:
        ours = generate(runner, prompt, max_new_tokens=NEW, sampling=Sampling(greedy=True))[0][0].tokens
    except MechlistError as error:
        return str(error)
    expected = prompt
    with torch.no_grad():
        for _ in range(NEW):
            expected = torch.cat([expected, theirs(expected).logits[:, -1:].argmax(-1)], dim=1)
    return list(ours) == expected[0, SHORT:].tolist()


def table(results: dict[str, Result]) -> str:
    """The results in Markdown."""
    lines = [
        "# Architectures",
        "",
        *wrap(
            "Tiny random models, every weight, norm and bias moved, against Hugging Face's eager forward pass and "
            f"torch's hooks on its modules: worst difference of a log-probability (nats) on {LONG} tokens, beyond a "
            f"window of {WINDOW}; worst difference of a patched logit difference over all layers, and positions or "
            f"heads, of {SHORT} tokens; whether greedy generation writes the same {NEW} tokens. Made by `python -m "
            f"experiments.benchmarks.architectures` with transformers {transformers.__version__} and torch "
            f"{torch.__version__}.",
            140,
        ),
        "",
        "| architecture | through | log-probability | resid_pre | z by head | mlp_out | greedy | path |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if not result.patched:
            lines.append(f"| {name} | refused: {result.through} | | | | | | |")
            continue
        cells = [f"{value:.0e}" if isinstance(value, float) else f"refused: {value}" for value in result.patched]
        text = result.same_text if isinstance(result.same_text, str) else "same" if result.same_text else "differs"
        through = result.through.replace("Transformer", "").replace("Bridge", "bridge").replace("Hooked", "hooked")
        cells = [name, through, f"{result.log_prob:.0e}", *cells, text, result.path]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Examine every architecture and write the table."""
    results = {}
    with tempfile.TemporaryDirectory() as made:
        for number, name in enumerate(MODELS):
            results[name] = examine(save(name, Path(made) / str(number)))
            print(f"{name}: {results[name]}", flush=True)
    TABLE.write_text(table(results), encoding="utf-8")
    print(TABLE)


if __name__ == "__main__":
    main()
