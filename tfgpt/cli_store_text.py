"""What `tfgpt store` prints for people."""
from __future__ import annotations

from collections.abc import Sequence

from tfgpt.store.catalog import Details, Entry


def print_entries(entries: Sequence[Entry]) -> None:
    """Print a row a version."""
    rows = [("name", "version", "stage", "task", "languages", "loss", "size", "downloads", "rating")]
    rows += [(entry.name, str(entry.version), entry.stage, entry.task, " ".join(entry.languages) or "-", _number(entry.loss), _size(entry.size_bytes),
              f"{entry.downloads:,}", _stars(entry)) for entry in entries]  # fmt: skip
    if entries:
        print_table(rows)
    else:
        print("nothing found")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of as many cells each, the first of which is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def print_details(details: Details) -> None:
    """Print all that is known of a version."""
    entry = details.entry
    rows = {
        "version": f"{entry.reference}, {entry.stage}", "owner": entry.owner, "published": f"{entry.published_at} by {entry.publisher}", "task": entry.task,
        "licence": entry.licence or "none given", "languages": ", ".join(entry.languages) or "none given", "tags": ", ".join(entry.tags) or "none",
        "trained from": entry.base_model, "data": details.data_sha256 or "not known", "recipe": details.recipe_sha256 or "not known",
        "content": details.content_sha256, "size": f"{_size(entry.size_bytes)} in {entry.file_count} files",
        "downloads": f"{details.version_downloads:,} of this version, {entry.downloads:,} of the model", "rating": _stars(entry),
    }  # fmt: skip
    for name, text in rows.items():
        print(f"{name:<14}{text}")
    print("\nfigures" + ("" if details.figures else ": none"))
    for name, value in details.figures.items():
        print(f"  {name:<40}{_number(value):>12}")
    print("\nfiles")
    for file in details.files:
        print(f"  {file.sha256}  {file.size_bytes:>14,}  {file.path}")
    print("\nreviews" + ("" if details.reviews else ": none"))
    for review in details.reviews:
        print(f"  {review['rated_at'][:10]}  {review['stars']} of 5  {review['rater']} of version {review['version']}: {' '.join(review['review'].split())}")
    print("\nlog")
    for event in details.events:
        moved = f"  {event['details']['from']} -> {event['details']['to']}" if "from" in event["details"] else ""
        print(f"  {event['at'][:19]}  {event['action']:<9} version {event['version']} by {event['actor']}{moved}")
    print(f"\n{details.card}", end="")


def print_comparison(result: dict) -> None:
    """Print two versions side by side."""
    first, second = result["first"], result["second"]
    width = max(len(first), len(second), 12) + 2
    print(f"{'':<34}{first:>{width}}{second:>{width}}{'difference':>14}")
    for name, of in result["figures"].items():
        print(f"{name:<34}{_number(of['first']):>{width}}{_number(of['second']):>{width}}{_number(of['difference'], '+'):>14}")
    print()
    for name, of in result["fields"].items():
        print(f"{name:<14}{_shown(of['first'])} -> {_shown(of['second'])}")
    data = {True: "the same", False: "another", None: "not known"}[result["same_data"]]
    files = result["files"]
    print(f"{'data':<14}{data}\n{'files':<14}{len(files['same'])} the same, {len(files['changed'])} changed, {len(files['only_first'])} only in the first, "
          f"{len(files['only_second'])} only in the second")
    for path in files["changed"]:
        print(f"  {path}")


def _number(value, sign=""):
    return "-" if value is None else f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign}.4f}"


def _stars(entry):
    return "-" if entry.rating is None else f"{entry.rating:.1f} of {entry.rating_count}"


def _size(count):
    return f"{count / 1e6:,.1f} MB" if count >= 10**5 else f"{count / 1e3:,.1f} kB"


def _shown(value):
    return (", ".join(value) or "none") if isinstance(value, list) else str(value) or "none"
