"""Windows cut time as the calendar does: against an oracle that walks the clock on the wall."""

import datetime as dt
import functools
import zoneinfo

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.clock import FOREVER, NEVER
from streamlab.window import cumulative, hopping, session, sliding, tumbling

UTC = dt.UTC
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
SLOT = 5 * MINUTE  # nothing below changes within one

# A day near which each zone changes its clock, or leaves a day out.
CHANGES = [
    ("Europe/Berlin", dt.datetime(2025, 3, 30, 1, tzinfo=UTC)),
    ("Europe/Berlin", dt.datetime(2025, 10, 26, 1, tzinfo=UTC)),
    ("America/New_York", dt.datetime(2025, 3, 9, 7, tzinfo=UTC)),
    ("America/New_York", dt.datetime(2025, 11, 2, 6, tzinfo=UTC)),
    ("America/New_York", dt.datetime(1969, 10, 26, 6, tzinfo=UTC)),
    ("America/Havana", dt.datetime(2025, 3, 9, 5, tzinfo=UTC)),
    ("America/Havana", dt.datetime(2025, 11, 2, 5, tzinfo=UTC)),
    ("Asia/Kolkata", dt.datetime(2025, 6, 1, tzinfo=UTC)),
    ("Australia/Lord_Howe", dt.datetime(2025, 4, 5, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", dt.datetime(2025, 10, 4, 15, 30, tzinfo=UTC)),
    ("America/Sao_Paulo", dt.datetime(2017, 10, 15, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", dt.datetime(2018, 2, 18, 2, tzinfo=UTC)),
    ("Asia/Beirut", dt.datetime(2022, 3, 26, 22, tzinfo=UTC)),
    ("Pacific/Apia", dt.datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ("Pacific/Kwajalein", dt.datetime(1969, 9, 30, 13, tzinfo=UTC)),
]


def micros(moment):
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


def at(text, tz="UTC", fold=0):
    """Return what a wall clock shows as microseconds since 1970."""
    local = dt.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(tz), fold=fold)
    return micros(local.astimezone(UTC))


def array(*times):
    return np.array(times, dtype=np.int64)


def windows_of(window, time):
    """Return the (start, end) of all windows that contain a time, in the order given."""
    _, starts, ends = window.windows(window.panes(array(time)))
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def lengths(window, first, last):
    """Return the lengths in hours of the panes from one instant to another."""
    panes = np.unique(window.panes(np.arange(first, last, SLOT)))
    _, starts, ends = window.windows(panes)
    assert (starts[1:] == ends[:-1]).all()
    return ((ends - starts) / HOUR).tolist()


# -- the oracle: five minutes at a time ------------------------------------------------------------


@functools.cache
def wall(zone, slot):
    """Return what the wall clock shows, as microseconds since 1970 of its own."""
    local = (EPOCH + dt.timedelta(microseconds=slot)).astimezone(zoneinfo.ZoneInfo(zone))
    return micros(local.replace(tzinfo=UTC))


def walk(window, time, reach):
    """Return [instant, label, begins] of each slot around a time; labels as `window` counts them."""
    tumbles, rows = window.kind == "tumbling", []
    now = (time - reach) // SLOT * SLOT
    label = shift = None
    while now < time + reach:
        shown = wall(window.tz, now)
        fresh = (shown - window.offset) // window.pane * window.pane
        back = 0 if shift is None else shift - (shown - now)
        shift = shown - now
        anew = tumbles and back >= window.pane
        begins = label is None or fresh > label or anew
        label = fresh if begins else label
        rows.append((now, label, begins))
        now += SLOT
    return rows


def expected(window, time):
    """Return the windows of a time in a zone as a sorted list of (end, start)."""
    rows = walk(window, time, 2 * window.size + 3 * DAY)
    if window.kind == "tumbling":
        begun = [instant for instant, _, begins in rows if begins]
        return [(min(b for b in begun if b > time), max(b for b in begun if b <= time))]
    here = max(label for instant, label, _ in rows if instant <= time)

    def first(label):
        return next(instant for instant, shown, _ in rows if shown >= label)

    if window.kind == "hopping":
        low = (here - window.size) // window.every * window.every
        pairs = [(s, s + window.size) for s in range(low, here + window.every, window.every)]
    else:
        base = here // window.size * window.size
        pairs = [(base, e) for e in range(base, base + window.size + 1, window.every)]
    found = {(first(end), first(start)) for start, end in pairs if start <= here + window.every}
    return sorted((end, start) for end, start in found if start <= time < end)


GRIDS = ["5m", "15m", "30m", "45m", "1h", "90m", "2h", "6h", "1d", "2d"]
HOPS = [("1h", "15m"), ("1h", "30m"), ("45m", "30m"), ("2h", "1h"), ("6h", "4h"), ("1d", "6h"), ("2d", "1d"), ("1h", "1h")]  # fmt: skip
STEPS = [("1h", "30m"), ("1h", "5m"), ("6h", "1h"), ("1d", "1h"), ("1d", "6h"), ("2d", "1d")]
OFFSETS = ["0s", "15m", "30m", "40m", "1h", "5h"]


@st.composite
def zoned(draw):
    """Return a window with a zone, and an instant near a change of that zone's clock."""
    zone, change = draw(st.sampled_from(CHANGES))
    extra = {"offset": draw(st.sampled_from(OFFSETS)), "tz": zone}
    window = draw(
        st.one_of(
            st.sampled_from(GRIDS).map(lambda size: tumbling(size, **extra)),
            st.sampled_from(HOPS).map(lambda pair: hopping(*pair, **extra)),
            st.sampled_from(STEPS).map(lambda pair: cumulative(*pair, **extra)),
        )
    )
    near = st.integers(-4 * HOUR, 4 * HOUR) | st.integers(-3 * DAY, 3 * DAY)
    return window, micros(change) + draw(near)


@settings(max_examples=400, deadline=None)
@given(zoned())
@example((cumulative("1d", "15m", tz="Europe/Berlin"), at("2025-03-30T01:50", "Europe/Berlin")))
def test_windows_in_a_zone_are_those_of_the_oracle(asked):
    """In every zone, kind and offset the windows of an instant are what walking the clock finds."""
    window, time = asked
    got = [(end, start) for start, end in windows_of(window, time)]
    assert got == expected(window, time)
    assert window.first_end(array(time)).tolist() == [got[0][0]]
    assert window.last_end(array(time)).tolist() == [got[-1][0]]
    assert all(end - start <= window.longest for end, start in got)


@settings(max_examples=100, deadline=None)
@given(zoned(), st.lists(st.integers(-400 * DAY, 400 * DAY), min_size=1, max_size=20))
def test_a_time_has_the_same_windows_in_any_company(asked, others):
    """Panes and windows of many times are those of each alone."""
    window, time = asked
    times = array(time, *(time + other for other in others))
    alone = [int(window.panes(array(t))[0]) for t in times]
    assert window.panes(times).tolist() == alone
    index, starts, ends = window.windows(array(*alone))
    together = [(alone[i], s, e) for i, s, e in zip(index, starts, ends, strict=True)]
    assert together == [(pane, *w) for pane in alone for w in windows_of(window, pane)]
    assert window.last_end(times).tolist() == [int(window.last_end(array(t))[0]) for t in times]
    assert window.first_end(times).tolist() == [int(window.first_end(array(t))[0]) for t in times]


@settings(max_examples=100, deadline=None)
@given(zoned(), st.integers(0, 2 * DAY))
def test_a_pane_lies_wholly_in_or_out_of_every_window(asked, later):
    """Two instants of one pane have the same windows, and panes begin in themselves."""
    window, time = asked
    first, second = window.panes(array(time, time + later)).tolist()
    assert first <= time and window.panes(array(first)).tolist() == [first]
    assert first <= second
    if first == second:
        assert expected(window, time) == expected(window, time + later)


# -- without a zone --------------------------------------------------------------------------------


@st.composite
def plain(draw):
    """Return a window of a few microseconds without a zone."""
    every, count = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    size = every * count
    offset = f"{draw(st.integers(0, 30))}us"
    more = draw(st.integers(0, 11))
    return draw(
        st.sampled_from(
            [
                tumbling(f"{size}us", offset=offset),
                hopping(f"{size + more}us", f"{every}us", offset=offset),
                cumulative(f"{size}us", f"{every}us", offset=offset),
            ]
        )
    )


def brute(window, time):
    """Return all windows [start, end) around a time, one microsecond after another."""
    found = []
    for start in range(time - 2 * window.size, time + 1):
        step = window.every if window.kind == "hopping" else window.size
        if (start - window.offset) % step == 0:
            lengths = [window.size]
            if window.kind == "cumulative":
                lengths = range(window.every, window.size + 1, window.every)
            found += [(start + n, start) for n in lengths if start <= time < start + n]
    return sorted(found)


@given(plain(), st.integers(-200, 200), st.integers(0, 40))
def test_windows_without_a_zone_are_all_that_contain_the_time(window, time, later):
    """Before and after 1970, with any offset, windows, their ends and panes are those found by trial."""
    wanted = brute(window, time)
    assert [(end, start) for start, end in windows_of(window, time)] == wanted
    assert window.first_end(array(time)).tolist() == [wanted[0][0]]
    assert window.last_end(array(time)).tolist() == [wanted[-1][0]]
    first, second = window.panes(array(time, time + later)).tolist()
    assert first <= time < first + window.pane
    if first == second:
        assert brute(window, time + later) == wanted


@given(plain(), st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-99, 99), max_size=20))
def test_the_expression_gives_the_panes(window, times):
    """`pane_expr` is `panes` in Polars, for every int64, and nulls stay null."""
    frame = pl.DataFrame({"t": pl.Series([*times, None], dtype=pl.Int64)})
    got = frame.select(window.pane_expr(pl.col("t")))["t"]
    assert got.dtype == pl.Int64
    assert got.to_list() == [*window.panes(array(*times)).tolist(), None]


def test_a_zone_has_no_expression():
    """Panes with a zone cannot be told by arithmetic, so there is no expression for them."""
    assert tumbling("1d", tz="Europe/Berlin").pane_expr(pl.col("t")) is None


@pytest.mark.parametrize("tz", [None, "Europe/Berlin"])
@pytest.mark.parametrize("make", [tumbling, functools.partial(hopping, every="20m"), functools.partial(cumulative, step="20m")])  # fmt: skip
def test_the_ends_of_time_do_not_overflow(make, tz):
    """What lies before and after everything has windows in the right order, and no overflow."""
    window = make("1h", tz=tz)
    times = array(NEVER, NEVER + 1, 0, FOREVER - 1, FOREVER)
    for found in (window.panes(times), window.first_end(times), window.last_end(times)):
        assert (np.diff(found) >= 0).all()
    assert (window.last_end(times) > window.panes(times)).all()
    _, starts, ends = window.windows(np.unique(window.panes(times)))
    assert (starts < ends).all()


@pytest.mark.parametrize("tz", [None, "Europe/Berlin"])
@pytest.mark.parametrize("window", ["tumbling", "hopping", "cumulative"])
def test_no_times_have_no_windows(window, tz):
    """Empty arrays in, empty arrays out, as int64."""
    made = getattr(sl, window)("1h", *([] if window == "tumbling" else ["20m"]), tz=tz)
    for found in (made.panes(array()), made.first_end(array()), made.last_end(array()), *made.windows(array())):  # fmt: skip
        assert found.dtype == np.int64 and len(found) == 0


# -- days on which the clock changes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "hours", "ones", "sixes"),
    [("2025-03-30", 23, 23, [5, 6, 6, 6]), ("2025-10-26", 25, 25, [7, 6, 6, 6])],
)
def test_a_day_in_berlin_may_have_23_or_25_hours(day, hours, ones, sixes):
    """The day, its hours and its quarters are those on the wall; a repeated hour is one of its own."""
    zone = "Europe/Berlin"
    first = at(day, zone)
    last = first + hours * HOUR
    assert windows_of(tumbling("1d", tz=zone), first + 5 * HOUR) == [(first, last)]
    assert lengths(tumbling("1h", tz=zone), first, last) == [1] * ones
    assert lengths(tumbling("6h", tz=zone), first, last) == sixes


def test_half_an_hour_is_repeated_on_lord_howe():
    """Half-hours begin again where the clock goes back by one; the hour is an hour and a half long."""
    zone = "Australia/Lord_Howe"
    first = at("2025-04-06", zone)
    last = first + 24 * HOUR + 30 * MINUTE
    assert windows_of(tumbling("1d", tz=zone), first) == [(first, last)]
    assert lengths(tumbling("30m", tz=zone), first, last) == [0.5] * 49
    assert lengths(tumbling("1h", tz=zone), first, last) == [1, 1.5] + [1] * 22


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("America/Havana", "2025-03-09", "2025-03-09T05:00"),
        ("America/Sao_Paulo", "2017-10-15", "2017-10-15T03:00"),
        ("Asia/Beirut", "2022-03-27", "2022-03-26T22:00"),
    ],
)
def test_a_day_without_midnight_begins_at_its_first_instant(zone, day, begins):
    """Where the clock goes from 24:00 to 01:00 the day begins at one, and has 23 hours."""
    start = at(begins)
    assert windows_of(tumbling("1d", tz=zone), at(f"{day}T12:00", zone)) == [
        (start, start + 23 * HOUR)
    ]
    assert windows_of(tumbling("1d", tz=zone), start - 1)[0][1] == start


def test_midnight_that_comes_twice_begins_one_day():
    """In Havana the hour before one is repeated; the day is one, of 25 hours."""
    first = at("2025-11-02", "America/Havana")
    days = tumbling("1d", tz="America/Havana")
    assert windows_of(days, at("2025-11-02T00:30", "America/Havana", fold=1)) == [
        (first, first + 25 * HOUR)
    ]
    # In Sao Paulo the hour before midnight is: what shows 23:30 again is still Saturday.
    saturday = at("2018-02-17", "America/Sao_Paulo")
    days = tumbling("1d", tz="America/Sao_Paulo")
    assert windows_of(days, at("2018-02-17T23:30", "America/Sao_Paulo", fold=1)) == [
        (saturday, saturday + 25 * HOUR)
    ]


def test_a_day_that_was_left_out_has_no_window():
    """In Apia the 31st of December 2011 follows the 29th; both have 24 hours."""
    change = at("2011-12-30T10:00")
    days = tumbling("1d", tz="Pacific/Apia")
    assert lengths(days, change - 48 * HOUR, change + 48 * HOUR) == [24] * 4
    assert windows_of(days, change) == [(change, change + 24 * HOUR)]
    two = hopping("2d", "1d", tz="Pacific/Apia")
    assert windows_of(two, change) == [
        (change, change + 24 * HOUR),  # that of the 30th and the 31st
        (change, change + 48 * HOUR),
    ]


def test_windows_that_share_a_gap_are_told_once():
    """Where the clock goes from two to three, all steps in between end at the same instant: one window."""
    window = cumulative("1d", "15m", tz="Europe/Berlin")
    first, change = at("2025-03-30", "Europe/Berlin"), at("2025-03-30T01:00")
    found = windows_of(window, change - 1)
    assert len(found) == len(set(found))
    assert found[:2] == [(first, change), (first, change + 15 * MINUTE)]
    assert found[-1] == (first, first + 23 * HOUR)


def test_hopping_windows_cover_a_repeated_hour_once():
    """Hopping windows count labels: the one from two to three has both of the hours that show two."""
    first = at("2025-10-26", "Europe/Berlin")
    window = hopping("2h", "1h", tz="Europe/Berlin")
    wanted = [
        (first + HOUR, first + 4 * HOUR),
        (first + 2 * HOUR, first + 5 * HOUR),
    ]
    again = at("2025-10-26T02:30", "Europe/Berlin", fold=1)
    assert windows_of(window, again) == windows_of(window, again - HOUR) == wanted


def test_a_fine_grid_over_many_years_is_cheap():
    """What is kept of a zone is its changes, not its panes: a second in ten centuries needs no more."""
    times = array(at("1500-01-01"), at("2025-07-01"), at("2500-01-01"))
    window = tumbling("1s", tz="Europe/Berlin")
    assert window.panes(times + 700_000).tolist() == times.tolist()
    assert len(window._wall(times).begins) < 3_000


# -- made by users ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (tumbling("1m"), "tumbling(1m)"),
        (hopping("5m", every="10s"), "hopping(5m, every=10s)"),
        (cumulative("1h", step="5m", offset="30m"), "cumulative(1h, step=5m, offset=30m)"),
        (session("30s"), "session(30s)"),
        (sliding(dt.timedelta(minutes=5)), "sliding(5m)"),
        (tumbling("1d", tz="Europe/Berlin"), "tumbling(1d, tz=Europe/Berlin)"),
        (tumbling("1m", offset="61s"), "tumbling(1m, offset=1s)"),
        (hopping("5m", "1m", offset="5m"), "hopping(5m, every=1m)"),
    ],
)
def test_windows_say_what_they_are(window, text):
    """A window prints as it is written, its offset reduced to the grid."""
    assert str(window) == text


def test_windows_are_values():
    """Equal windows are equal and hash alike, however size and zone were given."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    one, other = tumbling("60m", tz=berlin), tumbling(dt.timedelta(hours=1), tz="Europe/Berlin")
    assert one == other and hash(one) == hash(other)
    assert tumbling("1h", tz=UTC).tz == "UTC"


def test_panes_are_what_windows_share():
    """The pane is the common measure of size and step."""
    assert hopping("6m", "4m").pane == 2 * MINUTE
    assert cumulative("1h", "5m").pane == 5 * MINUTE
    assert tumbling("1h").pane == HOUR


@pytest.mark.parametrize("window", [session("1m"), sliding("1m")])
def test_sessions_and_sliding_windows_have_no_panes(window):
    """What depends on the rows cannot be told from the time."""
    for ask in (window.panes, window.windows, window.first_end, window.last_end):
        with pytest.raises(AssertionError):
            ask(array(0))
    with pytest.raises(AssertionError):
        window.pane_expr(pl.col("t"))
    with pytest.raises(AssertionError):
        _ = window.pane


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: tumbling("0s"), sl.InvalidDuration, "size '0s' is zero"),
        (lambda: hopping("1m", "0s"), sl.InvalidDuration, "every '0s' is zero"),
        (lambda: cumulative("1m", "0s"), sl.InvalidDuration, "step '0s' is zero"),
        (lambda: session("0s"), sl.InvalidDuration, "gap '0s' is zero"),
        (lambda: sliding("0s"), sl.InvalidDuration, "size '0s' is zero"),
        (lambda: tumbling("99999999999w"), sl.InvalidDuration, "more than 100,000 years"),
        (lambda: tumbling(5), sl.InvalidDuration, "size 5 is a bare int"),
        (lambda: tumbling("1M"), sl.InvalidDuration, 'write "1m" for a minute'),
        (lambda: tumbling("1m", offset=dt.timedelta(-1)), sl.InvalidDuration, "is negative"),
        (lambda: hopping("1m", "5m"), sl.QueryError, "every=5m is longer than the window of 1m"),
        (lambda: cumulative("1h", "25m"), sl.QueryError, 'make the size "50m"'),
        (lambda: cumulative("5m", "1h"), sl.QueryError, "5m is no multiple of the step 1h"),
        (lambda: tumbling("1d", tz="Europe/Berlim"), sl.QueryError, "'Europe/Berlim'\nHint: did you mean Europe/Berlin"),
        (lambda: hopping("1d", "1h", tz="New York"), sl.QueryError, "America/New_York"),
        (lambda: cumulative("1d", "1h", tz="berlin"), sl.QueryError, "Europe/Berlin"),
        (lambda: tumbling("1d", tz="?"), sl.QueryError, 'write one such as "Europe/Berlin"'),
        (lambda: tumbling("1d", tz=""), sl.QueryError, "no time zone ''"),
        (lambda: tumbling("1d", tz="../etc"), sl.QueryError, "no time zone '../etc'"),
        (lambda: tumbling("1d", tz=3), sl.QueryError, "no time zone '3'"),
    ],
)  # fmt: skip
def test_what_is_no_window_is_refused(make, error, says):
    """Each refusal names what was given and says what to write."""
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
    assert "Hint: " in str(caught.value)
