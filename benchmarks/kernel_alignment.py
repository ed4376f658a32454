"""Kernel alignment of many examples: time and peak memory of every measure.

    python benchmarks/kernel_alignment.py --examples 50000 --dimension 2048     # long, on one core

The rows are random, with a shared part, so that the figures are not those of chance.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from lco_embedding.analysis import kernels as measures


def make_rows(examples: int, dimension: int, latent: int = 32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make two sides that share what 32 hidden numbers say, a block at a time."""
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((latent, dimension), dtype=np.float32) for _ in range(2)]
    sides = [np.empty((examples, dimension), dtype=np.float32) for _ in range(2)]
    for start in range(0, examples, 4096):
        block = slice(start, min(start + 4096, examples))
        hidden = rng.standard_normal((block.stop - start, latent), dtype=np.float32)
        for side, mapped in zip(sides, maps, strict=True):
            noise = rng.standard_normal((block.stop - start, dimension), dtype=np.float32)
            side[block] = hidden @ mapped + 4 * noise
    return sides[0], sides[1]


def peak() -> float:
    """Return the peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=2048)
    arguments = parser.parse_args()
    one, two = make_rows(arguments.examples, arguments.dimension)
    print(f"{arguments.examples} x {arguments.dimension}: the rows alone bring memory to {peak():.2f} GB", flush=True)
    start = time.perf_counter()
    for name, value in measures.kernel_alignment(one, two).items():
        print(f"{name:<18} {value:.4f}")
    print(f"{time.perf_counter() - start:.0f} s, peak {peak():.2f} GB")


if __name__ == "__main__":
    main()
