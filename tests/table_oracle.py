"""A table in plain Python: the fold of a log, row at a time, and what change rows mean.

A log is a list of rows, dicts; the position in the list is the offset. It imports nothing of the
package, and is written from the rules alone.
"""

import math


def normal(value):
    """Return a value as it is compared: NaN is NaN, -0.0 is 0.0, also inside others."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, dict):
        return ("dict", *((name, normal(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(normal, value))
    return value


def key_of(row, key):
    return tuple(normal(row[name]) for name in key)


def fold(log, key, start, stop):
    """Return the table of the rows in [start, stop): normal rows by normal key, last row last."""
    table = {}
    for entry in log[start:stop]:
        table.pop(key_of(entry["row"], key), None)
        if not entry["deleted"]:
            table[key_of(entry["row"], key)] = entry["row"]
    return table


def appended_by(log, instant, start):
    """Return the offset after the last row that was appended by an instant."""
    return max([start, *(o + 1 for o, entry in enumerate(log) if entry["at"] <= instant)])


def shown(table):
    """Return the rows of a table as a list that can be compared, in its order."""
    return [normal(row) for row in table.values()]


def by_key(rows, key):
    """Return rows as a table; a key that is there twice is a mistake."""
    table = {key_of(row, key): row for row in rows}
    assert len(table) == len(rows)
    return table


def applied(table, changes, key):
    """Return a table after change rows, which have to fit what is there."""
    table = dict(table)
    for change in changes:
        op, before, after = change["op"], change["before"], change["after"]
        if op == "t":
            table.clear()
            continue
        place = key_of(after if before is None else before, key)
        assert key_of(change, key) == place
        assert (op == "c") == (before is None)
        assert (op == "d") == (after is None)
        assert (place in table) == (op != "c")
        if op != "c":
            assert normal(table[place]) == normal(before)
            del table[place]
        if op != "d":
            assert op == "c" or normal(before) != normal(after)
            table[key_of(after, key)] = after
    return table


def same_rows(table, rows, key):
    """Whether a table and some rows are the same, in whatever order."""
    other = by_key(rows, key)
    return {k: normal(row) for k, row in table.items()} == {k: normal(r) for k, r in other.items()}
