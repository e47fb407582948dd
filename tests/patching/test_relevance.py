"""RelP: against a pass that is written out here with the rules put in by `detach`, and against exact patching."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformer_lens.model_bridge import TransformerBridge

from mechlist.errors import InputError
from mechlist.metrics.answers import LogitDifference
from mechlist.models.huggingface import load_hf
from mechlist.models.layers.bridge_parts import NotOrdinaryError, mlp_parts
from mechlist.models.layers.relevance import carried, secant
from mechlist.models.quiet import quiet
from mechlist.models.tokenizer import stand_in
from mechlist.patching.attribution import attribution_grid
from mechlist.patching.edge_attribution import edge_scores
from mechlist.patching.edges import nodes_of, run_edges
from mechlist.patching.grid import patch_grid
from mechlist.patching.sweep.cells import HEAD_SITES
from mechlist.runner import Runner, add
from tests.conftest import HfDirectory
from tests.hooked import HookedTransformer, HookedTransformerConfig

METRIC = LogitDifference(answer=5, wrong=6)
LENGTH = 6
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "attn_scores")


def tokens(runner: Runner, prompts: int = 2, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(9, runner.shape.d_vocab, (prompts, length), generator=generator) for _ in range(2))
    return base, source


def built(**changes: Any) -> Runner:
    """A small HookedTransformer with random weights and biases, in float64."""
    config: dict[str, Any] = {"n_layers": 2, "d_model": 16, "n_heads": 4, "d_head": 4, "d_mlp": 24, "d_vocab": 23}
    config |= {"n_ctx": 16, "act_fn": "gelu", "normalization_type": "LN", "device": "cpu", "dtype": torch.float64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**(config | changes))).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Runner(model, progress=False)


def forward(runner: Runner, prompts: Tensor) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
    """Logit differences of a pass that is written out, and every site's activations; with RelP's rules on the way back.

    Norms divide by constants, activation functions multiply by constants, and of gates and what they multiply half
    comes back each; nothing of mechlist is used.
    """
    model: Any = runner.model
    cfg, kept = model.cfg, dict[tuple[str, int], Tensor]()
    gated, rotary = cfg.gated_mlp, cfg.positional_embedding_type == "rotary"
    length = prompts.shape[1]

    def keep(name: str, layer: int, x: Tensor) -> Tensor:
        kept[name, layer] = x if x.requires_grad else x.detach().requires_grad_()
        return kept[name, layer]

    def norm(module: Any, x: Tensor) -> Tensor:
        if "RMS" not in type(module).__name__:
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt().detach()
        x = x * module.w if hasattr(module, "w") else x
        return x + module.b if hasattr(module, "b") else x

    def turn(attention: Any, x: Tensor) -> Tensor:
        return attention.apply_rotary(x, 0) if rotary else x

    def act(x: Tensor) -> Tensor:
        value = model.blocks[0].mlp.act_fn(x.detach())
        return x * (value / x).detach()

    x = model.embed(prompts) + (0 if rotary else model.pos_embed(prompts))
    for layer, block in enumerate(model.blocks):
        x = keep("resid_pre", layer, x)
        attention, read = block.attn, norm(block.ln1, x)
        heads, groups = cfg.n_heads, cfg.n_key_value_heads or cfg.n_heads
        names = ("_W_K", "_b_K", "_W_V", "_b_V") if groups != heads else ("W_K", "b_K", "W_V", "b_V")
        w_k, b_k, w_v, b_v = (getattr(attention, name) for name in names)
        project = "bpm,hmd->bphd"
        q = keep("q", layer, torch.einsum(project, read, attention.W_Q) + attention.b_Q)
        k = keep("k", layer, torch.einsum(project, read, w_k) + b_k)
        v = keep("v", layer, torch.einsum(project, read, w_v) + b_v)
        k_each, v_each = (t.repeat_interleave(heads // groups, dim=2) for t in (turn(attention, k), v))
        scores = torch.einsum("bqhd,bkhd->bhqk", turn(attention, q), k_each) / attention.attn_scale
        if cfg.attn_scores_soft_cap > 0:
            scores = cfg.attn_scores_soft_cap * torch.tanh(scores / cfg.attn_scores_soft_cap)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = keep("attn_scores", layer, scores.masked_fill(hidden, -torch.inf))
        pattern = keep("pattern", layer, scores.softmax(-1))
        z = keep("z", layer, torch.einsum("bhqk,bkhd->bqhd", pattern, v_each))
        out = torch.einsum("bqhd,hdm->bqm", z, attention.W_O) + attention.b_O
        out = norm(block.ln1_post, out) if cfg.use_normalization_before_and_after else out
        x = keep("resid_mid", layer, x + keep("attn_out", layer, out))
        mlp, read = block.mlp, norm(block.ln2, x)
        if gated:
            pre, linear = read @ mlp.W_gate, read @ mlp.W_in
            product = act(pre) * linear
            inner = product / 2 + (product / 2).detach() + mlp.b_in
        else:
            inner = act(read @ mlp.W_in + mlp.b_in)
        out = inner @ mlp.W_out + mlp.b_out
        out = norm(block.ln2_post, out) if cfg.use_normalization_before_and_after else out
        x = keep("resid_post", layer, x + keep("mlp_out", layer, out))
    final = norm(model.ln_final, x)[:, -1]
    logits = final @ model.W_U + model.b_U
    cap = cfg.output_logits_soft_cap
    logits = cap * torch.tanh(logits / cap) if cap > 0 else logits
    return logits[:, 5] - logits[:, 6], kept


def by_hand(runner: Runner, site: str) -> np.ndarray:
    """Effects of the smallest cells of a site, [prompt layer head position] or without heads."""
    base, source = tokens(runner)
    with torch.enable_grad():
        metric, there = forward(runner, base)
        _, put = forward(runner, source)
        mine = [there[site, layer] for layer in range(runner.shape.n_layers)]
        gradients = torch.autograd.grad(metric.sum(), mine, allow_unused=True, materialize_grads=True)
    out = []
    for layer, gradient in enumerate(gradients):
        change = (put[site, layer] - there[site, layer]).detach().nan_to_num(nan=0.0)
        by_entry = (gradient * change).sum(-1)
        # Patterns are [prompt head query], all others [prompt position head].
        out.append(by_entry if site in ("pattern", "attn_scores") or by_entry.ndim == 2 else by_entry.transpose(1, 2))
    return torch.stack(out, dim=1).numpy()


def estimated(runner: Runner, site: str, **changes: Any) -> Any:
    base, source = tokens(runner)
    per = "head_position" if site in HEAD_SITES else "position"
    asked: dict[str, Any] = {"base": base, "source": source, "site": site, "per": per, "metric": METRIC, "rule": "relp"}
    return attribution_grid(runner, **(asked | changes))


TOYS: dict[str, dict[str, Any]] = {
    "gpt2": {"act_fn": "gelu_new"},
    "folded": {"normalization_type": "LNPre", "act_fn": "relu"},
    "gemma": {
        "gated_mlp": True,
        "act_fn": "gelu_pytorch_tanh",
        "normalization_type": "RMS",
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "n_key_value_heads": 2,
        "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 8.0,
        "output_logits_soft_cap": 12.0,
    },
    "llama": {
        "gated_mlp": True,
        "act_fn": "silu",
        "normalization_type": "RMSPre",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
    },
}


@pytest.fixture(scope="module")
def toys() -> dict[str, Runner]:
    return {name: built(**changes) for name, changes in TOYS.items()}


@pytest.mark.parametrize("toy", list(TOYS))
def test_every_cell_equals_the_pass_that_is_written_out(toys: dict[str, Runner], toy: str):
    runner = toys[toy]
    for site in SITES:
        expected, found = by_hand(runner, site), estimated(runner, site)
        assert np.abs(expected).max() > 1e-3
        # The metric reads logits in float32.
        np.testing.assert_allclose(found["effect"].values, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    gradient = estimated(runner, "mlp_out", rule="gradient")
    expected, found = by_hand(runner, "mlp_out"), estimated(runner, "mlp_out")
    np.testing.assert_allclose(found["base"].values, gradient["base"].values, rtol=1e-6)
    assert np.abs(gradient["effect"].values - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("toy", ["gpt2", "gemma"])
def test_edges_into_the_logits_and_sums_of_edges(toys: dict[str, Runner], toy: str):
    """An edge from the input has the relevance of the stream; all edges into what is read add up to a site's effect."""
    runner = toys[toy]
    base, source = tokens(runner)
    nodes = nodes_of(runner)
    scores = edge_scores(runner, base=base, source=source, metric=METRIC, rule="relp").scores.double().numpy()
    # What all senders write is the final stream.
    into = scores[:, :, nodes.receiver("logits")].sum(1)
    np.testing.assert_allclose(into, by_hand(runner, "resid_post")[:, -1].sum(-1), rtol=1e-4, atol=1e-5)
    # What reads the embedding, directly or after others, has what the stream before the first layer has.
    first = scores[:, 0].sum(1)
    np.testing.assert_allclose(first, by_hand(runner, "resid_pre")[:, 0].sum(-1), rtol=1e-4, atol=1e-5)


def linear_model() -> Runner:
    """No norm, an activation function far from its kink, and attention that always looks alike: all is linear."""
    runner = built(normalization_type=None, act_fn="relu", n_layers=3)
    model: Any = runner.model
    for block in model.blocks:
        block.attn.W_Q.data.zero_()
        block.attn.b_Q.data.zero_()
        # Large biases: nothing comes near the kink of the activation function.
        block.mlp.b_in.data.fill_(100.0)
    return runner


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "mlp_out", "attn_out", "z", "v"])
def test_on_a_linear_model_relevance_is_exact(site: str):
    runner = linear_model()
    model: Any = runner.model
    for block in model.blocks:
        # f(x) / x is 1, and 1 is the slope.
        assert block.mlp.act_fn(torch.tensor(3.0)) == 3
    base, source = tokens(runner)
    per = "head_position" if site in HEAD_SITES else "position"
    exact = patch_grid(runner, base=base, source=source, site=site, per=per, metric=METRIC)
    found = estimated(runner, site)["effect"]
    expected = (exact["patched"] - exact["base"]).values
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_on_a_linear_model_edges_are_exact():
    runner = linear_model()
    base, source = tokens(runner)
    nodes = nodes_of(runner)
    chosen = [tuple(edge) for edge in nodes.edges[::23].tolist()]
    patched = torch.zeros(len(chosen), *nodes.reads.shape, dtype=torch.bool)
    for number, edge in enumerate(chosen):
        patched[number][edge] = True
    values = run_edges(runner, base=base, source=source, patched=patched, metric=METRIC)
    found = edge_scores(runner, base=base, source=source, metric=METRIC, rule="relp")
    expected = values - found.base
    scores = torch.stack([found.scores[:, s, r] for s, r in chosen])
    torch.testing.assert_close(scores.double(), expected.double(), rtol=1e-3, atol=1e-3)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["gemma2", "pythia"])
def test_through_the_bridge_it_is_what_it_is_in_a_hooked_transformer(
    loaded: Callable[[str], Runner], hf_directory: HfDirectory, architecture: str
):
    """LayerNorm or RMSNorm, also after attention and MLP; a gated MLP; attention and MLP side by side."""
    hooked, directory = loaded(architecture), hf_directory(architecture)
    with quiet():
        hf_model = load_hf(directory)
        hf_model.set_attn_implementation("eager")
        module = TransformerBridge.boot_transformers(
            str(directory), hf_model=hf_model, tokenizer=stand_in(), device="cpu", dtype=torch.float32
        )
    bridged = Runner(module.eval(), progress=False)
    for site in ("resid_pre", "z"):
        mine, theirs = estimated(hooked, site)["effect"].values, estimated(bridged, site)["effect"].values
        assert np.abs(mine).max() > 1e-3
        np.testing.assert_allclose(theirs, mine, rtol=1e-2, atol=1e-3 * np.abs(mine).max())


def test_the_bridge_alone(loaded: Callable[[str], Runner]):
    runner = loaded("stablelm")
    found, gradient = (estimated(runner, "mlp_out", rule=rule) for rule in ("relp", "gradient"))
    np.testing.assert_allclose(found["base"].values, gradient["base"].values, rtol=1e-4, atol=1e-5)
    assert np.abs(found["effect"].values - gradient["effect"].values).max() > 1e-3


def test_nothing_changes_where_nothing_is_put_in(toys: dict[str, Runner]):
    runner = toys["gpt2"]
    base, _ = tokens(runner)
    assert not estimated(runner, "z", source=base)["effect"].values.any()


def test_the_softmax_can_be_exact_besides(toys: dict[str, Runner]):
    found = estimated(toys["gpt2"], "q", fix_qk=True)
    assert found.attrs["method"] == "relevance patching, with the softmax of attention exact"
    assert np.abs(found["effect"].values - estimated(toys["gpt2"], "q")["effect"].values).max() > 1e-4


def test_what_is_carried_and_secants():
    x = torch.tensor([2.0, -1.0, 0.0], requires_grad=True)
    value = carried(x.detach() ** 2, 3 * x)
    value.sum().backward()
    assert value.tolist() == [4, 1, 0]
    assert x.grad is not None
    assert x.grad.tolist() == [3, 3, 3]
    found = secant(gelu, x)
    assert found[:2].tolist() == pytest.approx([float(gelu(torch.tensor(2.0))) / 2, -float(gelu(torch.tensor(-1.0)))])
    assert float(found[2]) == pytest.approx(0.5, abs=1e-6)  # the slope of GELU at 0


def test_what_is_refused(toys: dict[str, Runner], loaded: Callable[[str], Runner]):
    runner = toys["gpt2"]
    base, source = tokens(runner)
    with pytest.raises(InputError, match="rule relp takes the relevance of the base run alone: steps must be 1, not 3"):
        estimated(runner, "z", steps=3)
    with pytest.raises(InputError, match="rule relp takes the relevance of the base run alone: steps must be 1, not 2"):
        edge_scores(runner, base=base, source=source, metric=METRIC, steps=2, rule="relp")
    with (
        runner.intervene(add("blocks.0.hook_resid_pre", torch.ones(16, dtype=torch.float64))),
        pytest.raises(
            InputError, match="rule relp needs a model whose layers can be run one by one, but interventions"
        ),
    ):
        estimated(runner, "z")
    normed = built(act_fn="solu_ln")
    with pytest.raises(InputError, match="Relevance cannot run back through this model's layers: in solu_ln"):
        estimated(normed, "z")
    with pytest.raises(InputError, match="Relevance cannot run back"):
        edge_scores(normed, base=base, source=source, metric=METRIC, rule="relp")
    with pytest.raises(InputError, match="rule relp needs a model whose layers can be run one by one, but"):
        estimated(loaded("mpt"), "z")


def test_an_mlp_of_its_own_kind_is_refused():
    class Doubled(torch.nn.Module):
        """Twice what its parts make."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.act_fn = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4), torch.nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.down(self.act_fn(self.up(x)))

    module = Doubled()
    parts = {"in": SimpleNamespace(original_component=module.up)}
    with pytest.raises(NotOrdinaryError, match=r"its MLP is a Doubled$"):
        mlp_parts(SimpleNamespace(original_component=module, submodules=parts), 4)
    parts["out"] = SimpleNamespace(original_component=module.down)
    with pytest.raises(NotOrdinaryError, match="its MLP is a Doubled, which computes something of its own"):
        mlp_parts(SimpleNamespace(original_component=module, submodules=parts), 4)
