"""A table whose answer depends on one column; the tiny model learns it in seconds."""

import csv
import json
import random
from pathlib import Path

RULE = {"ant": "insect", "bee": "insect", "cod": "fish", "eel": "fish", "elk": "mammal", "fox": "mammal"}


def write_rule_table(path: Path, *, n: int = 400, seed: int = 0, shuffled: bool = False) -> Path:
    """Write a CSV whose `kind` depends only on `animal`; `code` is noise; `shuffled` breaks the rule."""
    rng = random.Random(seed)
    animals = [rng.choice(sorted(RULE)) for _ in range(n)]
    kinds = [RULE[animal] for animal in animals]
    if shuffled:
        rng.shuffle(kinds)
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["animal", "code", "kind"])
        for animal, kind in zip(animals, kinds, strict=True):
            writer.writerow([animal, str(rng.randrange(100, 1000)), kind])
    return path


def train_on_rule(folder: Path, *, shuffled: bool = False) -> dict:
    """Train the tiny model on the rule's table and score it on unseen rows; returns accuracy and folders."""
    import evaluate_model
    import finetune_gemma_from_csv

    table = write_rule_table(folder / "animals.csv", shuffled=shuffled)
    data = ["--csv", str(table), "--target-field", "kind"]
    training = ["--mode", "full", "--learning-rate", "3e-3", "--max-steps", "60"]
    training += ["--per-device-batch-size", "16", "--gradient-accumulation-steps", "1"]
    out = ["--out-dir", str(folder / "run"), "--save-steps", "30", "--validation-rows", "16"]
    assert finetune_gemma_from_csv.main([*data, "--base-model", "tiny", *training, *out]) == 0
    model = folder / "run" / "model"
    assert evaluate_model.main(["--model", str(model), *data, "--out-dir", str(folder / "evaluation")]) == 0
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())["metrics"]
    return {"accuracy": metrics["kind/accuracy"]["value"], "table": table, "model": model,
            "evaluation": folder / "evaluation"}  # fmt: skip
