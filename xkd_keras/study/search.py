"""The search for settings: on validation images, with seeds of its own, as much for each method."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xkd_keras.study.plan import Plan, label

CRITERION = "mean validation top-1 over peers at the last epoch, then cross-entropy"


def choose(plan: Plan, results: Mapping[tuple[str, int], Mapping]) -> dict[str, list[dict]]:
    """Score every setting of every method and mark the best of each as chosen.

    Args:
        plan: With the grid and the seeds of the search.
        results: (label of the setting, seed) -> what `runs.run` measured; may lack some.

    Returns:
        By method, one dict a setting: `options`, `n` runs, mean `top1` and its `sd`,
        `cross_entropy` (both means over peers and seeds on validation images), `chosen`.
    """
    table = {}
    for arm in plan.arms:
        rows = [
            {"options": each, **_scores(plan, results, label(arm, each))}
            for each in plan.candidates(arm)
        ]
        # A setting that fails on some seeds is no choice: the others may only have been lucky.
        whole = [row for row in rows if row["n"] == len(plan.sweep_seeds)]
        best = max(whole, key=lambda row: (row["top1"], -row["cross_entropy"]), default=None)
        if rows:
            table[arm.method] = [{**row, "chosen": row is best} for row in rows]
    return table


def chosen(table: Mapping[str, list[dict]]) -> dict[str, dict[str, Any]]:
    """Return the chosen options of every method."""
    return {name: row["options"] for name, rows in table.items() for row in rows if row["chosen"]}


def _scores(plan: Plan, results: Mapping, name: str) -> dict[str, Any]:
    ends = [
        results[name, seed]["history"][-1] for seed in plan.sweep_seeds if (name, seed) in results
    ]
    peers = [peer.name for peer in plan.base.peers()]

    def per_seed(kind):
        return [float(np.mean([end[f"{peer}_{kind}"] for peer in peers])) for end in ends]

    top1, losses = per_seed("top1"), per_seed("cross_entropy")
    return {
        "n": len(ends),
        "top1": float(np.mean(top1)) if ends else None,
        "sd": float(np.std(top1, ddof=1)) if len(ends) > 1 else None,
        "cross_entropy": float(np.mean(losses)) if ends else None,
    }
