"""Two versions side by side: what is said of them, their figures, their files."""
from __future__ import annotations

from tfgpt.store.catalog import Details

FIELDS = ("stage", "owner", "published_at", "task", "licence", "languages", "tags", "base_model", "size_bytes")


def compare(first: Details, second: Details) -> dict:
    """Return what differs and what both measured.

    Returns:
        `fields`: of those that differ, both values. `figures`: of each that either has, both values (`None` = it has none) and `difference`, second less
        first. `files`: `same`, `changed`, `only_first`, `only_second`, each a list of paths. `same_data`: whether both were trained on the same inputs;
        `None` = not known.
    """
    pairs = [(key, getattr(first.entry, key), getattr(second.entry, key)) for key in FIELDS]
    figures = {}
    for name in (*first.figures, *(name for name in second.figures if name not in first.figures)):
        one, other = first.figures.get(name), second.figures.get(name)
        figures[name] = {"first": one, "second": other, "difference": None if None in (one, other) else other - one}
    return {
        "first": str(first.entry.reference), "second": str(second.entry.reference),
        "fields": {key: {"first": one, "second": other} for key, one, other in pairs if one != other}, "figures": figures,
        "same_data": first.data_sha256 == second.data_sha256 if first.data_sha256 and second.data_sha256 else None,
        "files": _files({file.path: file.sha256 for file in first.files}, {file.path: file.sha256 for file in second.files}),
    }  # fmt: skip


def _files(first, second):
    both = sorted(first.keys() & second.keys())
    return {"same": [path for path in both if first[path] == second[path]], "changed": [path for path in both if first[path] != second[path]],
            "only_first": sorted(first.keys() - second.keys()), "only_second": sorted(second.keys() - first.keys())}
