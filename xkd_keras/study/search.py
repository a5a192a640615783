"""The search for settings: on validation images, with seeds of its own, as much for each method."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xkd_keras.study import together
from xkd_keras.study.plan import Plan, label

CRITERION = "the geometric mean of the networks' error rates at the last epoch, then cross-entropy"


def choose(plan: Plan, results: Mapping[tuple[str, int], Mapping]) -> dict[str, list[dict]]:
    """Score every setting of every method and mark the best of each as chosen.

    Args:
        plan: With the grid and the seeds of the search.
        results: (label of the setting, seed) -> what `measurement.run` measured; may lack some.

    Returns:
        By method, one dict per setting: `options`, `n` runs, `chosen`, and on validation images
        mean `top1` over peers and seeds with its `sd`, the geometric mean `error`, `cross_entropy`.
        What a good network loses and a poor one gains counts by the share of their errors, as in
        the study's own comparison; of no error at all, half an image counts.
    """
    table = {}
    for arm in plan.arms:
        rows = [
            {"options": each, **_scores(plan, results, label(arm, each))}
            for each in plan.candidates(arm)
        ]
        # A setting that fails on some seeds is no choice: the others may only have been lucky.
        whole = [row for row in rows if row["n"] == len(plan.sweep_seeds)]
        best = min(whole, key=lambda row: (row["error"], row["cross_entropy"]), default=None)
        if rows:
            table[arm.method] = [{**row, "chosen": row is best} for row in rows]
    return table


def chosen(table: Mapping[str, list[dict]]) -> dict[str, dict[str, Any]]:
    """Return the chosen options of every method."""
    return {name: row["options"] for name, rows in table.items() for row in rows if row["chosen"]}


def _scores(plan: Plan, results: Mapping, name: str) -> dict[str, Any]:
    there = [results[name, seed] for seed in plan.sweep_seeds if (name, seed) in results]
    ends = [result["history"][-1] for result in there]
    peers = [peer.name for peer in plan.base.peers()]

    def per_seed(kind):
        return [float(np.mean([end[f"{peer}_{kind}"] for peer in peers])) for end in ends]

    top1, losses = per_seed("top1"), per_seed("cross_entropy")
    images = there[0]["data"]["examples"]["validation"] if there else 1
    errors = [together.log_error(end[f"{peer}_top1"], images) for end in ends for peer in peers]
    return {
        "n": len(ends),
        "top1": float(np.mean(top1)) if ends else None,
        "sd": float(np.std(top1, ddof=1)) if len(ends) > 1 else None,
        "error": float(np.exp(np.mean(errors))) if ends else None,
        "cross_entropy": float(np.mean(losses)) if ends else None,
    }
