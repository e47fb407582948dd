"""Peak memory of the functions that walk a vocabulary, measured in a process of their own: `python -m` prints JSON."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mechlist.weights import blocked, circuit, components, dimensions, heads, outliers, output, sparse

VOCAB, WIDTH = 262_144, 64
MIB = 2**20


def resident(field: str) -> int:
    """Bytes by the kernel's own count: VmRSS now, VmHWM at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def peak(work: Callable[[], object]) -> float:
    """MiB that `work` takes at most beyond what is there before, in a process of its own: no heap is there to reuse."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident("VmRSS")
        work()
        os.write(writer, str((resident("VmHWM") - before) / MIB).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return float(told)


class Model:
    """As much of a model as the circuits of one head need."""

    def __init__(self, weight: Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        sizes = {"n_layers": 2, "n_heads": 1, "d_model": WIDTH, "d_head": 16}
        self.cfg = type("Config", (), sizes)()
        self.W_U, self.W_E = weight, weight.mT.contiguous()
        down, up = torch.randn(2, 1, WIDTH, 16, generator=generator)
        attention = type("Attention", (), {"W_Q": down, "W_K": up, "W_V": down, "W_O": up.mT})()
        self.blocks = [type("Block", (), {"attn": attention})() for _ in range(2)]


def cases(weight: Tensor) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    columns, tokens = weight.mT.contiguous(), torch.arange(0, VOCAB, VOCAB // 256)
    bias, ones = torch.zeros(VOCAB), torch.ones(WIDTH)
    out = output.OutputWeights(weight, bias, False, 1.0, None, ones, 0 * ones, None)
    states, answers = torch.randn(2, WIDTH, generator=generator), torch.tensor([3, VOCAB - 1])
    found = dimensions.moments(weight)
    rotation = components.random_rotation(WIDTH, generator)
    model = Model(weight)
    few = torch.randn(16, WIDTH, generator=generator)
    target = (few @ weight).softmax(-1)
    penalty = torch.full((WIDTH,), 1e-3)
    return {
        "products": lambda: sum(1 for _ in blocked.products(columns[tokens], columns)),
        "diagonal_ranks": lambda: circuit.diagonal_ranks(columns[tokens], columns, own=tokens),
        "circuit_ranks": lambda: circuit.circuit_ranks(columns, columns, axis="query", tokens=tokens),
        "copying_ranks": lambda: heads.copying_ranks(model, (0, 0), tokens=tokens),
        "k_composition_circuit": lambda: circuit.k_composition_circuit(model, (0, 0), (1, 0)),
        "token_products": lambda: heads.token_products(model),
        "moments": lambda: dimensions.moments(weight),
        "softmax_entropies": lambda: dimensions.softmax_entropies(weight, 1.0, found),
        "extreme_tokens": lambda: dimensions.extreme_tokens(weight, 10),
        "find_outliers": lambda: outliers.find_outliers(weight),
        "equal_columns": lambda: output.equal_columns(weight),
        "singular_vectors": lambda: components.singular_vectors(weight),
        "curves of neurons": lambda: components.cumulative_curves(out, components.neurons(), states, answers),
        "curves of a rotation": lambda: components.cumulative_curves(out, rotation, states, answers),
        "fidelity": lambda: sparse.fidelity(few, target, weight),
        "sparse_refit": lambda: sparse.sparse_refit(few, target, weight, penalty, steps=2),
    }


def main() -> None:
    torch.set_num_threads(1)
    weight = torch.randn(WIDTH, VOCAB, generator=torch.Generator().manual_seed(0)) * 0.05
    # Imported beforehand, so that it is not counted.
    import scipy.sparse.linalg  # noqa: F401

    print(json.dumps({name: round(peak(work), 1) for name, work in cases(weight).items()}))


if __name__ == "__main__":
    main()
