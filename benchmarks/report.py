"""What a comparison has found: tables for the terminal and the README, and a file of its times.

Two kinds of ratios: a library's time over fastbn's (above 1 fastbn is faster, below 1 slower), and
fastbn's time over a memory floor (1 is the floor itself; see floor.py).
"""

import json
from math import exp, log
from pathlib import Path

from . import tables
from .cases import CASES, FAMILIES
from .floor import NAMES
from .libraries import FILES
from .measure import Times
from .tables import significant
from .timing import Job, Result

STATISTICS = Times._fields


class Table:
    """The results of one operation, layout and kind of output, by one statistic."""

    def __init__(self, results, statistic):
        job = results[0].job
        self.statistic = statistic
        kind = f"{job.operation} into a given output" if job.given else job.operation
        self.title = f"{kind}, {job.layout}, {job.dtype}, {statistic} microseconds"
        self.times = {
            r.job.case: r.times and {k: getattr(v, statistic) for k, v in r.times.items()}
            for r in results
        }
        found = set().union(*(times or () for times in self.times.values()))
        self.libraries = [name for name in FILES if name in found] or ["fastbn"]  # all noisy
        self.others = [name for name in self.libraries if name != "fastbn"]
        self.floors = [name for name in NAMES if name in found]

    @property
    def headings(self):
        """Times, ratios to fastbn, ratios of fastbn to the floors."""
        ratios = [*(f"to {name}" for name in self.others), *(f"of {name}" for name in self.floors)]
        return ["case", *self.libraries, *ratios]

    def ratios(self, times):
        """The ratios of a case, None where one is missing."""
        mine = times["fastbn"]
        to_others = [times[name] / mine if name in times else None for name in self.others]
        return to_others + [mine / times[name] for name in self.floors]

    def cases(self):
        """A row per case."""
        for case, times in self.times.items():
            if times is None:
                yield [case, *["noisy"] * (len(self.headings) - 1)]
            else:
                cells = (times.get(name) for name in self.libraries)
                micros = ["-" if t is None else significant(1e6 * t) for t in cells]
                yield [case, *micros, *map(_times, self.ratios(times))]

    def summary(self):
        """For every family of cases and for all: the geometric mean, and the worst ratio."""
        families = {**FAMILIES, "all": sum(FAMILIES.values(), ())}
        quiet = {case: times for case, times in self.times.items() if times}
        worst = [min] * len(self.others) + [max] * len(self.floors)
        empty = [""] * len(self.libraries)
        for family, groups in families.items():
            rows = [self.ratios(t) for case, t in quiet.items() if CASES[case].group in groups]
            columns = list(zip(*rows, strict=True))
            for name, kinds in (("geometric mean", [_mean] * len(worst)), ("worst", worst)):
                if rows:
                    values = (_of_some(f, c) for f, c in zip(kinds, columns, strict=True))
                    yield [f"{family}: {name}", *empty, *map(_times, values)]


def _mean(values):
    return exp(sum(map(log, values)) / len(values))


def _of_some(function, values):
    some = [value for value in values if value is not None]
    return function(some) if some else None


def _times(ratio):
    return "-" if ratio is None else f"{significant(ratio)}x"


def by_table(results):
    """The results that belong to one table, in the order of their first."""
    groups = {}
    for result in results:
        groups.setdefault(result.job[:-1], []).append(result)
    return list(groups.values())


def print_tables(results):
    """All cases, by minima and by medians."""
    for group in by_table(results):
        for statistic in STATISTICS:
            table = Table(group, statistic)
            tables.show(table.title, table.headings, [*table.cases(), *table.summary()])


def markdown(results, caption):
    """All cases by minima, and a summary by medians."""
    parts = []
    for group in by_table(results):
        least, middle = (Table(group, statistic) for statistic in STATISTICS)
        rows = [*least.cases(), *least.summary()]
        parts.append(tables.markdown(least.title, least.headings, rows))
        at = 1 + len(middle.libraries)
        if rows := [[row[0], *row[at:]] for row in middle.summary()]:
            parts.append(tables.markdown("", ["medians", *middle.headings[at:]], rows))
    return "\n\n".join([*parts, caption])


def save(path, results, caption):
    """Write everything that has been measured."""
    Path(path).write_text(json.dumps({"caption": caption, "results": results}))


def load(path):
    """(results, caption) of a run that was saved."""
    saved = json.loads(Path(path).read_text())
    return [
        Result(Job(*job), times and {k: Times(*v) for k, v in times.items()}, notes)
        for job, times, notes in saved["results"]
    ], saved["caption"]
