"""Estimates as text: a table of the scores, and a comparison of several estimates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations

from .result import Estimate
from .statistics import agreement, jaccard


def table(estimate: Estimate, chosen: Collection[str]) -> str:
    """List every module, highest score first, each column in percent of its highest; selected ones have a star.

    With the score's standard error, and the scores for fine texture and for overall structure.
    """
    ranked = estimate.ranked()
    means = [score.mean for score in ranked]
    columns = {"score": _shares(means, max(means)), "+/-": _shares([score.error for score in ranked], max(means))}
    if all(len(score.bins) > 1 for score in ranked):
        for name, bin_ in (("texture", 0), ("structure", -1)):
            values = [score.bins[bin_] for score in ranked]
            columns[name] = _shares(values, max(values))
    marks = ["*" if score.module in chosen else "" for score in ranked]
    rows = [["", "module", *columns],
            *zip(marks, [score.module for score in ranked], *columns.values(), strict=True)]
    measured = (f" {estimate.batches} samples, agreement of their halves {estimate.agreement:.2f}."
                if estimate.batches else "")
    measured += f"\n{estimate.doubt}" if estimate.doubt else ""
    return f"{summary(chosen, len(ranked))}{measured}\n\n{_aligned(rows, names=2)}"


def summary(chosen: Collection[str], total: int) -> str:
    """Count the selected modules, by kind."""
    kinds = {"self-attention": ".self_attn.", "cross-attention": ".cross_attn.", "MLP": ".mlp."}
    counts = {name: sum(part in module for module in chosen) for name, part in kinds.items()}
    by_kind = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"{len(chosen)} of {total} modules" + (f": {by_kind}." if by_kind else ".")


def comparison(estimates: Mapping[str, Estimate], chosen: Mapping[str, Collection[str]]) -> str:
    """Compare two or more estimates by title: overlap of their selections, and correlation of their rankings.

    ConfigError if two of them share fewer than two modules.
    """
    def overlap(one: str, other: str) -> float:
        return jaccard(chosen[one], chosen[other])

    def correlation(one: str, other: str) -> float:
        return agreement(estimates[one], estimates[other])

    in_all = set.intersection(*(set(modules) for modules in chosen.values()))
    parts = [_differences(estimates),
             "Chosen by both, of those chosen by either (Jaccard)\n" + _matrix(list(estimates), overlap),
             "Rank correlation of all scores (Spearman)\n" + _matrix(list(estimates), correlation),
             _listed("Chosen in all", in_all)]
    parts += [_listed(f"Only in {title}", set(modules) - _of_others(chosen, title))
              for title, modules in chosen.items()]
    return "\n\n".join(part for part in parts if part)


def _differences(estimates: Mapping[str, Estimate]) -> str:
    """Name differences in the inputs of the estimates; only scores of one kind compare well."""
    lines = []
    for (one, first), (other, second) in combinations(estimates.items(), 2):
        if first.score != second.score:
            lines.append(f"{one} has score {first.score}, {other} {second.score}.")
        if first.checkpoint and second.checkpoint and first.checkpoint != second.checkpoint:
            lines.append(f"{one} and {other} were made with different checkpoints.")
        if first.dataset and first.dataset == second.dataset:
            lines.append(f"{one} and {other} were made with the same dataset.")
    return "\n".join(lines)


def _of_others(chosen: Mapping[str, Collection[str]], title: str) -> set[str]:
    return {module for other, modules in chosen.items() if other != title for module in modules}


def _listed(heading: str, modules: Collection[str]) -> str:
    names = "\n".join(f"  {module}" for module in sorted(modules, key=_layer_order)) or "  none"
    return f"{heading}: {len(modules)}\n{names}"


def _layer_order(module: str) -> list[tuple[int, str]]:
    """Sort key by layer number, not by its digits."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]


def _matrix(titles: Sequence[str], value: Callable[[str, str], float]) -> str:
    rows = [["", *titles]]
    rows += [[one, *("-" if one == other else f"{value(one, other):.2f}" for other in titles)] for one in titles]
    return _aligned(rows, names=1)


def _shares(values: Sequence[float], highest: float) -> list[str]:
    return [f"{100 * value / highest:.1f} %" if highest > 0 else "-" for value in values]


def _aligned(rows: Sequence[Sequence[str]], names: int) -> str:
    """Align columns: the first `names` to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (" ".join(cell.ljust(width) if index < names else cell.rjust(width)
                      for index, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
