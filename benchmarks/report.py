"""What a comparison has found: a frame of times, and the tables for the terminal and the README.

The frame has a row per job and library or floor, with seconds; a noisy job has one row of NaN.
Two kinds of ratios are made of it: a library's time over fastbn's (above 1 fastbn is faster, below
1 slower), and fastbn's time over a memory floor (1 is the floor itself; see floor.py). A table is
(title, frame of text). pandas is imported where it is used: asv imports this file without it.
"""

import json
from importlib.metadata import version
from math import isnan, log10
from pathlib import Path

import numpy as np

import fastbn

from .cases import CASES
from .floor import NAMES
from .libraries import FILES
from .measure import Times
from .timing import Job

COLUMNS = [*Job._fields, "library", *Times._fields]
JOBS = ["operation", "given", "layout", "dtype"]  # what the cases of one table share


def frame(records):
    """The times of all jobs, from the records of `timed`."""
    import pandas as pd

    return pd.DataFrame(records, columns=COLUMNS).astype(dict.fromkeys(Times._fields, float))


def save(path, times, caption):
    """Write everything that has been measured."""
    records = times.astype(object).where(times.notna(), None).to_dict("records")
    Path(path).write_text(json.dumps({"caption": caption, "times": records}))


def load(path):
    """(times, caption) of a run that was saved."""
    saved = json.loads(Path(path).read_text())
    return frame(saved["times"]), saved["caption"]


def wide(times, statistic="least"):
    """Seconds by case, with a column per library and floor."""
    table = times.pivot(index="case", columns="library", values=statistic)
    columns = [name for name in (*FILES, *NAMES) if name in table]
    return table.reindex(index=times["case"].unique(), columns=columns)


def ratios(seconds):
    """A library's time over fastbn's, and fastbn's over each floor; NaN where one is missing."""
    fastbn = seconds["fastbn"]
    floors = [name for name in NAMES if name in seconds]
    libraries = seconds.drop(columns=["fastbn", *floors])
    of = (1 / seconds[floors]).mul(fastbn, axis=0).add_prefix("of ")
    return libraries.div(fastbn, axis=0).add_prefix("to ").join(of)


def worst(ratio):
    """The case with the least ratio to a library, or with the largest to a floor."""
    return ratio.idxmin() if ratio.name.startswith("to ") else ratio.idxmax()


def summary(ratios):
    """The geometric mean and the worst ratio, for each family of cases and for all."""
    import pandas as pd

    quiet = ratios.dropna(how="all")
    families = quiet.groupby(lambda case: CASES[case].family, sort=False)
    rows = {}
    for family, some in [*families, ("all", quiet)] if len(quiet) else []:
        rows[f"{family}: geometric mean"] = np.exp(np.log(some).mean())
        rows[f"{family}: worst"] = some.agg(lambda ratio: ratio.get(worst(ratio)))
    return pd.DataFrame(rows, index=ratios.columns).T


def table(times, statistic):
    """Times and ratios by case, and the summary beneath, as text."""
    import pandas as pd

    seconds = wide(times, statistic)
    compared = ratios(seconds)
    micros = (1e6 * seconds[[name for name in FILES if name in seconds]]).map(significant)
    cases = micros.join(compared.map(multiple))
    cases.loc[seconds["fastbn"].isna()] = "noisy"
    return pd.concat([cases, summary(compared).map(multiple)]).fillna("").rename_axis("case")


def tables(times, medians="cases"):
    """A table for each operation, layout and kind of output, by minima and then by medians.

    With `medians="summary"`, those by medians have neither cases nor times.
    """
    found = []
    for (operation, given, layout, dtype), group in times.groupby(JOBS, sort=False):
        title = f"{kind(operation, given)}, {layout}, {dtype}"
        found += [(f"{title}, {name} microseconds", table(group, name)) for name in Times._fields]
        if medians == "summary":
            found[-1] = "", summary(ratios(wide(group, "median"))).map(multiple)
            found[-1][1].index.name = "medians"
    return [(title, cells) for title, cells in found if len(cells)]


def kinds(times):
    """(name, seconds, noisy): the cases of each operation, dtype and layout, or rows, by library.

    Cases that were too noisy to be timed are left out, and counted.
    """
    flat = times["case"].map(lambda case: len(CASES[case].shape) == 2)
    data, dtypes = times["layout"].mask(flat, "rows"), times["dtype"].unique()
    for (operation, given, dtype), of_kind in times.groupby(JOBS[:2] + JOBS[3:], sort=False):
        for name, group in of_kind.groupby(data):
            name += f", {dtype}" * (len(dtypes) > 1)
            seconds = wide(group)
            quiet = seconds.dropna(subset="fastbn")
            yield f"{kind(operation, given)}, {name}", quiet, len(seconds) - len(quiet)


def beside(seconds):
    """(library, ratios, geometric mean) of each library that was timed: its times to fastbn's."""
    for to, ratio in ratios(seconds).filter(regex="^to ").items():
        if ratio.any():
            yield to.removeprefix("to "), ratio, np.exp(np.log(ratio).mean())


def overview(times):
    """One table: a row for each operation, dtype and layout, and for rows, over all cases.

    Of each library it has the geometric mean of the ratios to it, and the worst with its case.
    """
    import pandas as pd

    rows = {}
    for name, seconds, noisy in kinds(times):
        row = rows[name] = {"cases": f"{len(seconds)}" + f", {noisy} noisy" * bool(noisy)}
        for library, ratio, mean in beside(seconds):
            row[f"to {library}"] = multiple(mean)
            row[f"worst to {library}"] = f"{multiple(ratio.min())} {ratio.idxmin()}"
    cells = pd.DataFrame(rows).T.fillna("").rename_axis("operation, data")
    dtypes = ", ".join(times["dtype"].unique())
    title = f"times as long as fastbn takes, {dtypes}: geometric mean, and worst case"
    return [(title, cells)]


def kind(operation, given):
    """The operation, and where its output goes."""
    return f"{operation} into a given output" if given else operation


def significant(value, digits=3):
    """A positive number rounded to that many digits, without an exponent; - for NaN."""
    if isnan(value):
        return "-"
    decimals = digits - 1 - int(log10(max(value, 1)))
    return f"{value:,.{max(decimals, 0)}f}"


def multiple(ratio):
    """A ratio as text."""
    return "-" if isnan(ratio) else f"{significant(ratio)}x"


def markdown(title, cells):
    """A table in Markdown. The first column is text; in the others, numbers are set right."""
    headings = cells.index.name, *cells.columns
    rule = "---", *["---:"] * cells.shape[1]
    rows = [f"| {' | '.join(row)} |" for row in (headings, rule, *cells.itertuples(name=None))]
    return "\n".join([f"**{title}**\n", *rows] if title else rows)


def text(title, cells):
    """A table for the terminal."""
    return f"{title}\n{cells.rename_axis(index=None, columns=cells.index.name).to_string()}\n"


def replace(path, marker, new):
    """Put text between ``<!-- marker -->`` and ``<!-- /marker -->`` in a file."""
    first, last = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, found, rest = Path(path).read_text().partition(first)
    _, found_too, after = rest.partition(last)
    if not (found and found_too):
        raise ValueError(f"{path} should have the lines {first.strip()} and {last.strip()}")
    Path(path).write_text(before + first + new + "\n" + last + after)


def machine(libraries=("fastbn", "PyTorch")):
    """Processor, threads and who runs them, and versions, for a caption after the calls."""
    info = fastbn.config_info()
    threads = f"{info['threads']} thread{'s' if info['threads'] > 1 else ''}"
    layer = f"Numba's threading layer {info['threading_layer']}"
    versions = [f"{p} {info[p.lower()]}" for p in ("Python", "fastbn", "NumPy", "Numba")]
    more = {"torch": "PyTorch", "jax": "JAX"}
    modules = dict.fromkeys(FILES[library][1] for library in libraries)
    versions += [f"{more[module]} {version(module)}" for module in modules if module in more]
    return ", ".join([info["cpu"], threads, layer, *versions])
