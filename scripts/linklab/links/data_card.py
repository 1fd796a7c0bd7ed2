"""The data card of a set of links: what it is, how hard it is, what each column means."""

from __future__ import annotations

from linklab.links.links import LINK_SCHEMA
from linklab.links.row_stream import Recipe

_PICKERS = {  # the names that run_baselines.py and reports use
    "random": "a random legal channel",
    "most_frequent": "the channel most frequent in these rows",
    "least_noise": "the least noise",
    "least_busy": "the least busy air time",
    "most_snr": "the most SNR",
    "snr_and_busy": "the most lg2(1 + SNR) (1 - busy)",
    "formula": "the generator's own formula on the observed values",
}


def card_text(recipe: Recipe, rows: int, figures: dict, strata: dict | None = None) -> str:
    """README.md of the folder, with front matter for `load_dataset`; no time and no machine: reproducible bytes."""
    scores = figures["pickers"]
    pickers = "\n".join(
        f"| {name} | {meaning} | {scores[name]['accuracy']:.3f} | {scores[name]['regret']:.3f} |"
        for name, meaning in _PICKERS.items()
    )
    bayes, mae = figures["bayes"], figures["throughput_mae_mbps"]
    balance = ""
    if strata:
        balance = f"\nStratified by {', '.join(strata['columns'])}, balance `{strata['balance']}`: "
        balance += f"{len(strata['rows'])} strata of {min(strata['rows'].values()):,} to "
        balance += f"{max(strata['rows'].values()):,} rows.\n"
    return f"""---
pretty_name: Outdoor 5 GHz Wi-Fi links
configs:
- config_name: default
  data_files: links.csv
---
# Outdoor 5 GHz Wi-Fi links

{rows:,} synthetic point-to-point links that have measured every channel they may use. Two questions: which channel
has the highest throughput (`recommended_channel_mhz`), and what is its throughput (`expected_throughput_mbps`)?

Preset `{recipe.preset}`, seed {recipe.seed}; the best channel of every row beats the second by at least
{100 * recipe.min_gap:g} %. Rows of one `site_id` share their neighbours: keep them on one side of a split.
`links.zip` holds the same `links.csv`.
{balance}
## How hard it is

On the first {figures["rows"]:,} rows, {figures["candidates_mean"]:.1f} candidates each, {figures["classes"]} classes,
the largest {100 * figures["top_class_share"]:.0f} %. Regret is the share of throughput that a choice loses.

| rule | chooses | accuracy | mean regret |
|---|---|---:|---:|
{pickers}

Ceiling of these rows (`bayes_ceiling`) {bayes["ceiling"]:.3f}: the mean probability of the likeliest channel, over
40 true states per row that agree with the reported values; that channel is the right one in
{bayes["achieved"]:.3f} of these rows. A report computes its ceiling from its test rows, so the two differ.
Throughput: `mean_throughput` is off by {mae["mean"]:.0f} Mbit/s on average, `formula` by {mae["formula"]:.0f}.

## Columns

| column | role | unit | meaning |
|---|---|---|---|
{chr(10).join(f"| {c.name} | {c.role} | {c.unit} | {c.description} |" for c in LINK_SCHEMA.columns)}

Hidden columns are known only afterwards. A prompt that shows one reveals the answer.
"""
