"""Results as tables on a terminal. Only this module and the command line print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.partitions import few

SHOWN = 20
"""Items of a list that a terminal shows."""


def _console() -> Console:
    found = Console()
    # A log file has no width; eighty columns would fold every table.
    return found if found.is_terminal else Console(width=160)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    console = _console()
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    numeric = [all(isinstance(row[i], int | float | type(None)) for row in rows) for i in range(len(head))]
    for name, is_number in zip(head, numeric, strict=True):
        # A space is where a narrow column may break its head.
        table.add_column(name.replace("_", " "), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*[_cell(value) for value in row])
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def summary(data: dict[str, Any]) -> None:
    """The outcome of a night."""
    _table(f"Release {data['release']} of {data['as_of_date']}", ["table", "rows"], list(data["rows"].items()))
    _table("Figures", ["figure", "value"], sorted(data["metrics"].items()))
    _console().print(f"Look further: dsirm status | coverage | evaluate | explain --query ... (--home {data['home']})")


def backfilled(data: dict[str, Any]) -> None:
    """Days and nights made up for."""
    verb = "Would aggregate" if data["dry_run"] else "Aggregated"
    _console().print(f"{verb} {len(data['days'])} days that changed: {', '.join(data['days']) or 'none'}.")
    rows = [[night["date"], night["release"] or "to be run"] for night in data["nights"]]
    _table("Nights", ["date", "release"], rows)


def forgotten(data: dict[str, Any]) -> None:
    """How many rows of a person went."""
    rows = {name: count for name, count in data["rows"].items() if count}
    found = ", ".join(f"{count} of {name}" for name, count in rows.items()) or "none: no table holds that person"
    _console().print(f"Rows removed: {found}. The next `dsirm nightly` computes what depends on them again.")


def lineage(data: dict[str, Any]) -> None:
    """From features back to the log."""
    steps = [
        [
            step["table"],
            few(step["partitions"]),
            step["version"],
            step["job"],
            step["run"],
            " ".join(f"{name}={count}" for name, count in step["counts"].items()),
            " ".join(f"{name}@{version}" for name, version in (step["inputs"] or {}).items()),
        ]
        for step in data["steps"]
    ]
    _table(f"Lineage of {data['release']}", ["table", "partitions", "commit", "job", "run", "rows", "read"], steps)
    sources = [[s["partition"], s["fingerprint"], "yes" if s["unchanged_since"] else "no"] for s in data["sources"]]
    _table("Sources", ["partition", "content", "unchanged since"], sources)


def maintained(data: dict[str, Any]) -> None:
    """What maintenance removed, or would."""
    verb = "Would remove" if data["dry_run"] else "Removed"
    told = [f"releases: {', '.join(data['releases']) or 'none'}"]
    told += [f"{name}: {len(parts)} partitions" for name, parts in data["partitions"].items()]
    told.append(f"directories: {', '.join(data['directories']) or 'none'}")
    _console().print(f"{verb}\n  " + "\n  ".join(told))
    if not data["dry_run"]:
        joined, deleted = sum(data["files_joined"].values()), sum(data["files_deleted"].values())
        _console().print(f"Joined {joined} small files; deleted {deleted} that nothing reads any more.")


def encoder(data: dict[str, Any]) -> None:
    """The encoder's precisions on this machine."""
    rows = [list(path.values()) for path in data["paths"]]
    where = "one thread" if data["device"] == "cpu" else "on the GPU"
    _table(f"Encoder {data['encoder']}, {where}", ["precision", "texts a second", "least cosine", "advised"], rows)


def demo(data: dict[str, Any]) -> None:
    """What the demo made and where to look."""
    summary(data["summary"])
    coverage({**data["coverage"], "slices": [s for s in data["coverage"]["slices"] if "category=" not in s["slice"]]})
    ranker_metrics({**data["ranker"], "rows": [row for row in data["ranker"]["rows"] if row["slice"] == "all"]})
    explanation(data["example"])
    _console().print(f"Done in {data['seconds']} s.")


def study(data: dict[str, Any]) -> None:
    """The main comparison of each data set, and where the report is."""
    rows = [row for row in data["comparisons"] if row["metric"] == "auc" and row["against"] == "none"]
    for name in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == name and row["ranker"] == "mlp"]
        # The strongest base the data set has.
        base = max((row["base"] for row in own), key=len)
        head = ["variant", "difference", "low", "high"]
        found = [[row[column] for column in head] for row in own if row["base"] == base]
        _table(f"{name}: AUC of an MLP on {base}, against no SID", head, found)
    _console().print(f"Report: {data['files']['report.html']}", soft_wrap=True)


def status(data: dict[str, Any]) -> None:
    """What a home holds."""
    days = data["log_days"]
    log = f"log {days[0]} to {days[1]} ({days[2]} days)" if days else "no click log"
    head = ["table", "rows", "partitions", "written_by"]
    _table(
        f"{data['home']}: {log}, current release {data['current'] or 'none'}",
        head,
        [[row[name] for name in head] for row in data["tables"]],
    )


def coverage(data: dict[str, Any]) -> None:
    """Coverage by slice."""
    head = list(dict.fromkeys(name for row in data["slices"] for name in row if name != "slice"))
    rows = [[row["slice"], *(row.get(name) for name in head)] for row in data["slices"]]
    _table(f"Coverage of release {data['release']}", ["slice", *head], rows)


def ranker_metrics(data: dict[str, Any]) -> None:
    """The ranker with and without SID features."""
    if not data["rows"]:
        _console().print(f"Release {data['release']} has no judged pairs, so there is no ranker to compare.")
        return
    overall = [row for row in data["rows"] if row["seed"] == -1]
    head = ["variant", "slice", "auc", "auc_query", "precision", "recall", "ndcg10", "difference", "low", "high"]
    rows = sorted(
        overall, key=lambda row: (row["slice"] != "all", row["slice"], row["variant"] != "none", row["variant"])
    )
    _table(
        f"Ranker on judged queries it was not trained on, release {data['release']} (base: {overall[0]['base']})",
        [*head, "queries", "pairs"],
        [[row[name] for name in [*head, "queries", "pairs"]] for row in rows],
    )
    _console().print("difference: AUC minus that of `none`, with its 95 % interval over queries and seeds.")


def release_list(data: dict[str, Any]) -> None:
    """Releases and their states."""
    head = ["release", "state", "pinned", "as_of_date", "codebook_version", "generator_version", "code_revision"]
    _table("Releases, oldest first", head, [[row[name] for name in head] for row in data["releases"]])


def release_diff(data: dict[str, Any]) -> None:
    """Two releases compared."""
    items = data["items"]
    rows = [["items in both", items["in_both"]], ["items added", items["added"]], ["items removed", items["removed"]]]
    rows += [[f"prefix moved, {key.replace('_', ' ')}", count] for key, count in items["moved"].items()]
    _table(f"{data['from']} -> {data['to']}", ["what", "count"], rows)
    changed = [
        [key, value["from"], value["to"]] for part in ("metrics", "versions") for key, value in data[part].items()
    ]
    if changed:
        _table("Changed", ["what", "from", "to"], changed)
    if data["inputs_changed"]:
        _console().print("Inputs that changed: " + ", ".join(data["inputs_changed"]))


def explanation(data: dict[str, Any]) -> None:
    """A query's SIDs, an item's, and their match."""
    rows = [
        [beam["rank"], "-".join(map(str, beam["codes"])), beam["category"] or "(other)", *beam["prefix_probabilities"]]
        for beam in data["beams"]
    ]
    _table(
        f"{data['query']!r}, release {data['release']} ({data['source']})",
        ["beam", "SID", "category", "p(1)", "p(1,2)", "p(1,2,3)"],
        rows,
    )
    if "item" not in data:
        return
    item, match = data["item"], data["match"]
    code = "-".join(map(str, item["codes"]))
    lines = [
        f"Item {item['item_id']}: {item['title'] or '(left the catalogue)'}",
        f"  SID {code}, category {item['category'] or '(unknown)'}, first code chosen by {item['level1_by']}",
        f"  Match: depth {match['depth']}, ss {match['ss']}"
        + (f", by beam {match['beam_rank']}, prefix {'-'.join(map(str, match['prefix']))}" if match["depth"] else ""),
    ]
    _console().print("\n".join(lines), markup=False)


def recalled(data: dict[str, Any]) -> None:
    """A query's SIDs and the items behind them."""
    head = ["beam", "SID", "category", "probability", "items", "in_stock"]
    rows = [
        [
            beam["rank"],
            _codes(beam),
            beam["category"] or "(other)",
            beam["probability"],
            beam["items"],
            beam["in_stock"],
        ]
        for beam in data["beams"]
    ]
    _table(f"{data['query']!r}, release {data['release']} ({data['source']})", head, rows)
    if data["user"] is not None and not data["personalised"]:
        _console().print("For everybody: nothing is known of this user, or the generator reads queries alone.")
    if not data["items"]:
        _console().print("Nothing is recalled: no item behind these SIDs is in stock.")
        return
    shown = data["items"][:SHOWN]
    rows = [
        [item["rank"], item["item_id"], item["title"], item["beam_rank"], item["score"], item["efficiency"] / 1e6]
        for item in shown
    ]
    more = f", the first {len(shown)}; --json has all" if len(shown) < len(data["items"]) else ""
    _table(
        f"{len(data['items'])} items in stock{more}",
        ["rank", "item", "title", "beam", "probability", "click_rate"],
        rows,
    )


def recall_metrics(data: dict[str, Any]) -> None:
    """Hit rates of recall, beside other channels."""
    found, names = data["targets"], {"clk": "clicks", "exp": "impressions", "buy": "purchases"}
    console = _console()
    told = ", ".join(f"{found[column]:,} {column}" for column in names.values())
    console.print(
        f"Release {data['release']}: {found['queries']:,} of {found['queries_there_were']:,} queries of the "
        f"{found['source']} ({found['days'][0]} to {found['days'][-1]}), {told}",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    head = ["channel", "metric", "slice", "rate", "low", "high", "items"]
    whole = [row for row in data["rates"] if row["slice"] == "all"]
    _table(
        "Hit rates, with the mean number of items behind them", head, [[row[name] for name in head] for row in whole]
    )
    parts = [row for row in data["rates"] if row["slice"] != "all" and row["metric"] in ("clk@10", "clk@1000items")]
    _table("By slice", head, [[row[name] for name in head] for row in parts])
    head = ["metric", "against", "difference", "low", "high"]
    _table("SIDs against other channels", head, [[row[name] for name in head] for row in data["comparisons"]])
    head = ["metric", "beams", "rate", "items", "cut_rate", "cut_items"]
    swept = [[row[name] for name in head] for row in data["sweep"] if row["metric"] == "clk"]
    _table("Clicks over numbers of beams; cut: the first 1,000 items", head, swept)
    head = ["metric", "against", "both", "ours", "theirs", "neither"]
    _table("What each finds of the whole", head, [[row[name] for name in head] for row in data["others"]])
    if "growth" in data:
        _growth(data["growth"])


def _growth(data: dict[str, Any]) -> None:
    """What came since the generator was trained, what it costs, and what to do."""
    console = _console()
    console.print("Daily growth", style="bold")
    trained = f"The generator is of {data['trained_on']}, {data['days']} days before this release"
    if data["new_items"] is None:
        told = f"{trained}; {data['first_release']}, the first that it served, is gone: nothing tells what is new."
    elif not data["new_items"]:
        told = f"{trained}; no item is new since."
    else:
        items, clicks = data["new_items_share"], data["new_clicks_share"] or 0.0
        told = (
            f"{trained}. New since: {data['new_items']:,} items, {items:.1%} of all, with {clicks:.1%} of the clicks."
        )
    console.print(told, markup=False, soft_wrap=True)
    if not data["new_items"]:
        return
    head = ["metric", "new", "new_low", "new_high", "old", "old_low", "old_high", "difference", "low", "high"]
    head += ["lost", "lost_share"]
    _table("New items against old ones", head, [[row[name] for name in head] for row in data["rates"]])
    row, limit = data["rates"][0], f"{data['retrain_at']:.1%}"
    if row["lost_share"] is None:
        told = "Nobody clicked a new item, or an old one, so nothing is lost that could be seen."
    elif data["retrain"]:
        told = (
            f"Train again: new items cost {row['lost_share']:.1%} of the hit rate at ten beams, the limit is {limit}. "
            "Run `dsirm nightly --refit`."
        )
    elif row["lost_share"] >= data["retrain_at"]:
        told = (
            f"Too early to train again: new items cost {row['lost_share']:.1%} of the hit rate at ten beams, the limit "
            f"is {limit}, but there are too few clicks to tell."
        )
    else:
        told = (
            f"No need to train again: new items cost {row['lost_share']:.1%} of the hit rate at ten beams, "
            f"the limit is {limit}."
        )
    console.print(told, markup=False, soft_wrap=True)


def recall_study(data: dict[str, Any]) -> None:
    """The main comparisons of the recall study, and where its report is."""
    head = ["variant", "against", "metric", "rate", "against_rate", "difference", "low", "high"]
    rows = [row for row in data["comparisons"] if row["slice"] == row["against_slice"] == "all"]
    _table("What generative recall is worth", head, [[row[name] for name in head] for row in rows])
    _console().print(f"Report: {data['files']['report.md']}", soft_wrap=True)


def _codes(row: dict[str, Any]) -> str:
    return "-".join(map(str, row["codes"]))
