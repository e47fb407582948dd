"""Peak memory at a vocabulary of 262,144: bounds that do not grow with the number of tiles, measured by the kernel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MATRIX = 64.0
"""MiB of the matrix itself, 64 x 262,144 in float32."""
BOUNDS = {
    "products": 30,
    "diagonal_ranks": 40,
    "circuit_ranks": 40,
    # These make factors of 16 columns, 16 MiB a side, and put them together from parts.
    "copying_ranks": 80,
    "k_composition_circuit": 90,
    "token_products": 30,
    "moments": 30,
    "softmax_entropies": 30,
    "extreme_tokens": 30,
    "find_outliers": 120,
    "equal_columns": 50,
    "singular_vectors": 100,
    "curves of neurons": 60,
    "curves of a rotation": 60,
    "fidelity": 80,
    # Two matrices of the weights' size, and its block.
    "sparse_refit": 2 * MATRIX + 120,
}
"""MiB beyond what is there before."""


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells the peak of its processes")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.weights.peak_memory"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_function_is_measured(peaks: dict[str, float]):
    assert peaks.keys() == BOUNDS.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_peak_memory_is_within_its_bound(peaks: dict[str, float], name: str):
    assert 0 < peaks[name] < BOUNDS[name]
