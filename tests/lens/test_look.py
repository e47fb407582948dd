import pytest
import torch

from mechlist import Runner
from mechlist.errors import InputError
from mechlist.lens.look import look

TEXT = "Write a short list of fruits"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner.load("list-tiny", device="cpu", progress=False)


def test_a_look_is_what_a_plain_pass_gives(runner):
    seen = look(runner, TEXT)
    tokens = torch.tensor([runner.to_tokens(TEXT)])
    logits, cache = runner.model.run_with_cache(tokens)
    last = logits[0, -1]
    assert seen.tokens == tuple(tokens[0].tolist())
    assert seen.positions == (tokens.shape[1] - 1,)
    assert seen.top_token[0].tolist() == last.topk(5).indices.tolist()
    assert torch.allclose(seen.probability[0], last.softmax(0).topk(5).values, atol=1e-5)
    for stage, hook in enumerate([f"blocks.{n}.hook_resid_pre" for n in range(6)]):
        said = runner.language_model.unembed(runner.model.ln_final(cache[hook][:, -1:]))[0, 0]
        assert seen.stage_token[0, stage] == said.argmax()
        assert seen.stage_rank[0, stage] == 1 + (said > said[last.argmax()]).sum()
    for (layer, head), key, weight in zip(seen.head[0].tolist(), seen.attended[0], seen.weight[0], strict=True):
        row = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, -1, 1:]
        assert (int(row.argmax()) + 1, float(row.max())) == (int(key), pytest.approx(float(weight), abs=1e-5))
    strongest = max(float(cache[f"blocks.{n}.attn.hook_pattern"][0, :, -1, 1:].max()) for n in range(6))
    assert float(seen.weight[0, 0]) == pytest.approx(strongest, abs=1e-5)


def test_every_position_has_the_rank_of_what_does_come_next(runner):
    seen, alone = look(runner, TEXT, every=True), look(runner, TEXT)
    tokens = runner.to_tokens(TEXT)
    logits = runner.logits([tokens])[0]
    ranks = [1 + int((row > row[t]).sum()) for row, t in zip(logits, tokens[1:], strict=False)]
    assert seen.next_rank.tolist() == [*ranks, 0]
    assert seen.top_token[-1].tolist() == alone.top_token[0].tolist()
    for n, stage in enumerate(seen.settled):
        ranks = seen.stage_rank[n].tolist()
        assert set(ranks[stage:]) == {1}
        assert stage == 0 or ranks[stage - 1] != 1


def test_texts_that_cannot_be_looked_at_are_refused(runner):
    with pytest.raises(InputError, match="The text is empty"):
        look(runner, "")
    longest = runner.shape.n_ctx
    with pytest.raises(InputError, match=rf"The text has \d+ tokens, and the context of the model holds {longest}"):
        look(runner, "fruit " * longest)
    with pytest.raises(InputError, match="needs a tokenizer, and the model induction-tiny has none"):
        look(Runner.load("induction-tiny", device="cpu", progress=False), "x")
