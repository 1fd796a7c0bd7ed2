"""A table with a class and a number that follow from two of its columns, for the tests of baselines."""

import csv

import numpy as np

KINDS = ["big", "small", "odd"]


def write_table(path, n=300, seed=0):
    """Write a CSV whose class and number follow from two columns; one column is noise, one has empty cells."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["colour", "size", "note", "kind", "price"])
        for _ in range(n):
            colour, size = str(rng.choice(["red", "green"])), rng.normal(10, 3)
            kind = "odd" if rng.random() < 0.05 else KINDS[int(size + 3 * (colour == "red") < 11)]
            note = "" if rng.random() < 0.2 else f"{rng.normal():.2f}"
            writer.writerow([colour, f"{size:.2f}", note, kind, f"{3 * size + rng.normal():.2f}"])
    return path
