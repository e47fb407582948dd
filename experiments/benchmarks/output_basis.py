"""An unembedding of Llama 2 7B's shape, of random numbers, read as `output-basis` and `components-needed` do.

python -m experiments.benchmarks.output_basis
"""

import resource
import time

import torch

from mechlist.experiments.output_basis.basis import describe, random_directions
from mechlist.weights.components import cumulative_curves, neurons, random_rotation, singular_vectors
from mechlist.weights.output import OutputWeights

WIDTH, VOCAB, PROMPTS = 4096, 32000, 12


def main() -> None:
    """Print seconds of all cores and peak memory, that of the matrix included, after each part."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(WIDTH, VOCAB, generator=generator)
    states = torch.randn(PROMPTS, WIDTH, generator=generator)
    output = OutputWeights(weight, torch.zeros(VOCAB), False, 1.0, None, torch.ones(WIDTH), torch.zeros(WIDTH), None)
    answers = (states @ weight).argmax(-1)
    started = time.process_time()

    def tell(part: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{part:40} {time.process_time() - started:7.1f} s {peak:6.2f} GiB", flush=True)

    tell("matrix made")
    describe(weight, typical=states.abs().median(0).values, value=states[0], top=10, threshold=None)
    random_directions(weight, 64, generator)
    tell("output-basis")
    bases = [neurons(), random_rotation(WIDTH, generator), singular_vectors(weight)]
    tell("bases of components-needed")
    for basis in bases:
        cumulative_curves(output, basis, states, answers)
        tell(f"components-needed, {basis.name}")


if __name__ == "__main__":
    main()
