"""Print every benchmark: ours, the alternative, and how many times faster ours is."""

import platform

import torch

from experiments.benchmarks import (
    attribution,
    circuits,
    decoding,
    memory,
    patching,
    patching_bridge,
    patching_gemma,
    patching_nnsight,
    path,
    planning,
    runner,
    saes,
    store,
)


def main() -> None:
    """Run all benchmarks in one process."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'':<66} {'ours':>11} {'alternative':>11} {'speed-up':>9}")
    for benchmark in (runner, store, decoding):
        for comparison in benchmark.run():
            print(comparison.row(), flush=True)
    others = (
        memory,
        patching,
        patching_bridge,
        patching_nnsight,
        patching_gemma,
        attribution,
        path,
        circuits,
        saes,
        planning,
    )
    for lines in (benchmark.run() for benchmark in others):
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
