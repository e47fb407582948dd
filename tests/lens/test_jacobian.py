"""What a Jacobian lens is and is not: reading, files of others, and lenses of another model or basis."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.tools.analysis import JacobianLens as Theirs

from mechlist.errors import InputError
from mechlist.lens.jacobian import JacobianLens, load_lens, stream_signature
from mechlist.lens.jacobian_fit import fit_jacobian_lens
from mechlist.lens.logit_lens import lens_logits
from mechlist.results import save_dataset
from mechlist.runner import Runner
from mechlist.runner.raw import raw_runner
from tests.models.tiny import random_sequences

Loaded = Callable[[str], Runner]
LAYERS, WIDTH = 3, 32


def matrices() -> torch.Tensor:
    return torch.randn(LAYERS - 1, WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5


def write(file: Path, **payload: Any) -> Path:
    torch.save(payload, file)
    return file


@pytest.fixture
def fitted(loaded: Loaded) -> JacobianLens:
    rows = list(random_sequences(97, rows=4, length=9))
    return fit_jacobian_lens(loaded("llama"), rows, generator=torch.Generator(), dimensions=0, skip=3, source="a few")


def test_a_published_file_maps_the_output_of_blocks(loaded: Loaded, tmp_path: Path):
    J = matrices()
    Theirs({0: J[0], 1: J[1]}, n_prompts=7, d_model=WIDTH).save(str(tmp_path / "lens.pt"), dtype=torch.float32)
    found = load_lens(tmp_path / "lens.pt", loaded("llama"))
    assert found.stages == (1, 2)
    assert found.prompts == 7
    assert torch.equal(found.of(2), J[1])
    stream = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(found(1, stream), stream @ J[0].T)
    assert torch.equal(found(LAYERS, stream), stream)
    assert found(0, stream).isnan().all()
    with pytest.raises(InputError, match="has matrices for the stages 1 to 2, not for 0"):
        found.of(0)


def test_the_checkpoint_of_a_fit_is_divided_by_its_prompts(loaded: Loaded, tmp_path: Path):
    J = matrices()
    sums = {0: 4 * J[0], 1: 4 * J[1]}
    file = write(tmp_path / "checkpoint.pt", jacobian_sum=sums, n_done=4, target_layer=LAYERS - 1)
    found = load_lens(file, loaded("llama"))
    torch.testing.assert_close(found.matrix, J)
    assert found.prompts == 4


def test_a_lens_of_ones_is_the_logit_lens(loaded: Loaded):
    runner = loaded("llama")
    ones = torch.eye(WIDTH).expand(LAYERS, -1, -1)
    lens = JacobianLens(ones, tuple(range(LAYERS)), LAYERS, 0, "ones", metadata={})
    rows, columns = list(random_sequences(97, rows=2, length=9)), torch.tensor([1, 5])
    where = torch.tensor([[3, 8], [0, 2]])
    plain = lens_logits(runner, rows, where, columns)
    torch.testing.assert_close(lens_logits(runner, rows, where, columns, translate=lens), plain)


def test_the_results_of_a_run_hold_it(loaded: Loaded, fitted: JacobianLens, tmp_path: Path):
    save_dataset(fitted.dataset(), tmp_path / "results.nc")
    found = load_lens(tmp_path / "results.nc", loaded("llama"))
    assert torch.equal(found.matrix, fitted.matrix)
    assert (found.stages, found.prompts, found.source) == (fitted.stages, 4, "a few")
    assert found.error is not None
    assert fitted.error is not None
    assert torch.equal(found.error, fitted.error)


def test_it_is_good_whether_norms_are_folded_or_not(loaded: Loaded, fitted: JacobianLens):
    fitted.check(raw_runner(loaded("llama")))
    other = loaded("qwen2")
    with pytest.raises(InputError, match="must have been fitted on this model, and in its basis; a few gives other"):
        fitted.check(other)


def test_centred_weights_are_another_basis(loaded: Loaded, tmp_path: Path):
    centred, raw = loaded("gpt2"), raw_runner(loaded("gpt2"))
    assert (stream_signature(centred) - stream_signature(raw)).norm() > 0.01
    file = write(tmp_path / "lens.pt", J={0: matrices()[0]}, n_prompts=1, d_model=WIDTH)
    with pytest.raises(InputError, match="this model's residual stream is centred: load it with --no-center-writing"):
        load_lens(file, centred)
    assert load_lens(file, raw).stages == (1,)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"weights": 1}, "is no Jacobian lens: a published lens has J, n_prompts and d_model"),
        ({"J": {}, "n_prompts": 1}, "is no Jacobian lens: it has no matrix"),
        ({"J": {0: torch.zeros(3, 4)}, "n_prompts": 1}, "must hold square matrices of finite numbers, not the shape"),
        ({"J": {0: torch.full((3, 3), torch.nan)}, "n_prompts": 1}, "must hold square matrices of finite numbers"),
        ({"jacobian_sum": {0: torch.zeros(3, 3)}, "n_done": 0}, "is the checkpoint of a fit that has no prompt yet"),
        (
            {"J": {2: torch.zeros(32, 32)}, "n_prompts": 1},
            "must map layers before 2, this model's last, to it",
        ),
        (
            {"J": {0: torch.zeros(32, 32)}, "n_prompts": 1, "metadata": {"target_layer": 1}},
            "it maps layers 0 to 0 to layer 1",
        ),
        ({"J": {0: torch.zeros(16, 16)}, "n_prompts": 1}, "is of one with 3 layers and width 16"),
        (
            {"J": {0: torch.zeros(32, 32)}, "n_prompts": 1, "metadata": {"processing": {"weight_basis": "folded"}}},
            "must be in the basis of raw Hugging Face activations, not in 'folded'",
        ),
    ],
)
def test_files_that_are_no_lens_of_this_model(loaded: Loaded, tmp_path: Path, payload: dict[str, Any], text: str):
    with pytest.raises(InputError, match=text):
        load_lens(write(tmp_path / "lens.pt", **payload), loaded("llama"))


class Harmful:
    """Unpickled without care, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_no_code_of_a_file_is_run(loaded: Loaded, tmp_path: Path):
    torch.save({"J": Harmful(tmp_path / "harm"), "n_prompts": 1}, tmp_path / "lens.pt")
    with pytest.raises(InputError, match="cannot be read as a Jacobian lens without running code of it"):
        load_lens(tmp_path / "lens.pt", loaded("llama"))
    assert not (tmp_path / "harm").exists()
    with pytest.raises(InputError, match="There is no file"):
        load_lens(tmp_path / "nothing.pt", loaded("llama"))
