"""One of two processes that train together, with the environment that `accelerate launch` sets."""

import os


def train(rank: int, port: int, words: list[str]) -> int:
    """Run the training script as process `rank` of two on this machine."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")  # fmt: skip
    import finetune_gemma_from_csv

    return finetune_gemma_from_csv.main(words)
