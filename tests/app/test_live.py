import numpy as np
import pytest
import torch

from mechlist import LogitDifference, Runner, patch_grid
from mechlist.app.live import Live
from mechlist.app.pages.patching import cell_parts, pairs_from
from mechlist.app.response import Path
from mechlist.decode import Sampling, generate
from mechlist.decode.records import Alternative, Record, RecordedToken
from mechlist.decode.tree import TreeConfig
from mechlist.errors import InputError

PROMPT = "Write a short list of fruits."
PAIR = {"clean": "Write a short list of", "corrupt": "Write a long list of", "answer": " short", "wrong": " long"}


def go_on(live: Live, record: Record, place: int, number: int, **asked: int) -> Record:
    other = record.tokens[place].alternatives[number]
    return live.go_on(record, place, other, chat=True, most=asked.get("most", 10))


@pytest.fixture(scope="module")
def record(live) -> Record:
    return live.write(PROMPT, chat=True, most=14)


def test_a_choice_makes_the_model_write_on_from_it(live, record):
    place, there = 5, record.tokens[5]
    number = next(n for n, a in enumerate(there.alternatives) if a.token not in (there.token, "<end_of_turn>"))
    other = go_on(live, record, place, number)
    assert other.tokens[:place] == record.tokens[:place]
    assert other.tokens[place].token == record.tokens[place].alternatives[number].token
    runner = live._runner
    before = [*live._prompt(PROMPT, True), *(t.token_id for t in other.tokens[: place + 1])]
    plain = generate(runner, [before], max_new_tokens=10, sampling=Sampling(greedy=True), stop_tokens=(1, 107))
    written = tuple(t.token_id for t in other.tokens[place + 1 :])
    assert written == plain[0][0].tokens[: len(written)]
    assert len(written) > 3
    log_probs = runner.log_probs([[*before, *written]])[0]
    told = [t.log_prob for t in other.tokens[place + 1 :]]
    assert np.allclose(told, log_probs[len(before) - 1 :][: len(told)].numpy(), atol=1e-4)


def test_a_record_without_ids_goes_on_from_its_text(live, record):
    plain = [RecordedToken(t.token, t.log_prob, t.alternatives) for t in record.tokens]
    other = Alternative(record.tokens[2].alternatives[1].token, -1.0)
    by_text = live.go_on(Record(PROMPT, record.response, tuple(plain)), 2, other, chat=True, most=5)
    assert [t.token for t in by_text.tokens[:2]] == [t.token for t in record.tokens[:2]]
    assert by_text.tokens[2].token == other.token
    assert len(by_text.tokens) > 3


def test_an_end_of_turn_is_an_end_and_a_full_context_is_said(live, record):
    end = live._runner.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    ended = live.go_on(record, 3, Alternative("<end_of_turn>", -9.0, end), chat=True, most=9)
    assert len(ended.tokens) == 4
    with pytest.raises(InputError, match="new tokens must be at least 1, not 0"):
        go_on(live, record, 1, 1, most=0)
    with pytest.raises(InputError, match="The prompt is empty"):
        live.write("", chat=False, most=3)
    long = Record(PROMPT, "", record.tokens[:1] * live._runner.shape.n_ctx)
    with pytest.raises(InputError, match="fill the model's context: nothing can follow"):
        live.go_on(long, len(long.tokens) - 1, Alternative("a", -1.0), chat=True, most=3)


def test_a_path_goes_through_the_model(live, record):
    path = Path.of(record).chosen(2, 1, lambda *asked: live.go_on(*asked, chat=True, most=5))
    assert path.now.record.response != record.response
    assert path.undone().now.record == record


def test_trees_looks_and_attention(live):
    tree = live.tree(PROMPT, TreeConfig(max_nodes=30), chat=True)
    assert len(tree.nodes) >= 30
    assert tree.prompt == PROMPT
    said, tables = live.look("Write a list", every=True)
    assert "list-tiny reads" in said[0]
    assert all(said.count(", ") >= 4 for said in tables["every token, and what comes after it"]["most probable"])
    figure = live.attention("Write a list", 1, 2)
    weights = np.array(figure.data[0]["z"], dtype=float)
    assert np.allclose(np.nansum(weights, axis=1), 1, atol=1e-3)
    with pytest.raises(InputError, match="layer must be from 0 to 5 and head from 0 to"):
        live.attention("x", 6, 0)


def test_a_cell_says_what_the_grid_says(live):
    patched = live.patch([PAIR], "resid_pre")
    metric = LogitDifference(" short", " long")
    grid = patch_grid(live._runner, base=PAIR["corrupt"], source=PAIR["clean"], metric=metric)
    assert np.allclose(patched.results["patched"], grid["patched"], atol=1e-5)
    frame = live.cell(patched, 2, 6)
    assert frame["difference"][0] == pytest.approx(float(grid["patched"][0, 2, 6]), abs=1e-4)
    assert frame["logit of the answer"][0].endswith("(·short)")
    text = str(cell_parts(patched, 2, 6, frame))
    assert "Layer 2, position 6 “·of”: the patch changes the logit difference by" in text
    assert "One pair has no interval" in text
    with pytest.raises(InputError, match="layer must be from 0 to 5 and position from 0 to 6, not 2 and 7"):
        live.cell(patched, 2, 7)


def test_several_pairs_have_an_interval(live):
    texts = {name: f"{text}\n{text.replace('list', 'name')}" for name, text in PAIR.items()}
    patched = live.patch(pairs_from({**texts, "answer": " short\n short", "wrong": " long\n long"}), "resid_pre")
    frame = live.cell(patched, 0, 4)
    assert len(frame) == 2
    assert "mean over 2 pairs" in str(cell_parts(patched, 0, 4, frame))


def test_pairs_come_from_lines():
    assert pairs_from(PAIR | {"clean": "a\n"})[0]["clean"] == "a"
    assert pairs_from(PAIR)[0]["answer"] == " short"
    with pytest.raises(InputError, match="corrupt, wrong must hold a text each"):
        pairs_from(PAIR | {"corrupt": "", "wrong": None})
    with pytest.raises(InputError, match="as many lines: clean has 2, corrupt has 1"):
        pairs_from(PAIR | {"clean": "a\nb"})


def test_a_model_without_tokenizer_is_refused():
    runner = Runner.load("induction-tiny", device="cpu", progress=False)
    with pytest.raises(InputError, match="the model induction-tiny has no tokenizer"):
        Live(runner)
    assert torch.is_grad_enabled()
