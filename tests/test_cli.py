"""The command line: every verb does what its help says, and every mistake ends in one clear line."""

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys

import pytest

import streamlab as sl
from streamlab.cli import main
from streamlab.cli_text import clean, parse_schema

TRADES = "ts timestamp, symbol string not null, price double, size int64"
LINES = [
    {"ts": "2026-01-05T09:30:00Z", "symbol": "A", "price": 1.5, "size": 1},
    {"ts": "2026-01-05T09:30:01.5+00:00", "symbol": "B", "price": 12345.25, "size": 1_000_000},
    {"ts": "2026-01-05 09:31:00", "symbol": "A\x1b[31m", "price": None},
]
VERBS = [
    "demo",
    "new",
    "ls",
    "info",
    "append",
    "tail",
    "sql",
    "query",
    "replay",
    "export",
    "import",
    "verify",
    "fork",
    "pack",
    "unpack",
    "compact",
]


@pytest.fixture
def lab(tmp_path):
    """A lab with a stream of three rows, made by the command line; gives its path as text."""
    path = str(tmp_path / "lab")
    assert main(["new", path, "trades", "--schema", TRADES, "--time", "ts", "--key", "symbol"]) == 0
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert main(["append", path, "trades", str(tmp_path / "rows.jsonl")]) == 0
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process; give exit code, output and errors."""
    monkeypatch.delenv("COLUMNS", raising=False)
    capsys.readouterr()

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def process(*arguments, **options):
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "streamlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------------------ help


def test_help_lists_every_verb_with_a_line(capsys):
    """``--help`` names all verbs, grouped, each with what it does."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w.{{10,}}$", text, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_a_description_and_an_example(verb, capsys):
    """Each verb's help says what it does, explains every option, and shows a command."""
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"example:\n  .*streamlab {verb}", text)
    assert re.search(r"^[A-Z].*\.$", text, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_each_example_of_the_help_is_a_command(verb):
    """What the help shows as an example is understood."""
    import shlex

    from streamlab.cli import VERBS as RUNS
    from streamlab.cli_parser import VERBS as TEXTS
    from streamlab.cli_parser import parser

    words = shlex.split(TEXTS[verb].example)
    options = parser(RUNS).parse_args(words[words.index("streamlab") + 1 :])
    assert options.run is RUNS[verb]


def test_version_is_the_packages():
    """``streamlab --version`` prints the version, also as ``python -m streamlab``."""
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"streamlab {sl.__version__}\n".encode())


@pytest.mark.parametrize(
    "arguments",
    [[], ["nope"], ["new", "lab", "s"], ["sql", "lab"], ["tail", "lab", "s", "-n", "-1"]],
)
def test_wrong_usage_is_2(arguments, capsys):
    """What cannot be parsed exits with 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: streamlab" in capsys.readouterr().err


# ------------------------------------------------------------------------------ looking


def test_ls_is_a_table_or_json(lab, run):
    """A line for each stream, numbers with thousands, or the same as JSON."""
    code, out, err = run("ls", lab)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:4] == ["stream", "rows", "size", "segments"]
    assert "2026-01-05 09:30:00 → 09:31:00" in out
    code, out, _ = run("ls", lab, "--json")
    [row] = rows_of(out)
    assert (row["stream"], row["rows"], row["end_offset"]) == ("trades", 3, 3)
    assert row["first_time"] == "2026-01-05T09:30:00Z"


def test_ls_of_a_lab_with_a_damaged_stream_lists_the_others(lab, run, tmp_path):
    """A damaged stream is listed as damaged, with exit code 1, and the others as they are."""
    main(["new", lab, "fine", "--schema", "a int64"])
    path = tmp_path / "lab" / "streams" / "trades" / "stream.json"
    path.write_bytes(path.read_bytes().replace(b'"delay": 0', b'"delay": 9'))
    code, out, err = run("ls", lab)
    assert code == 1
    assert re.search(r"^fine +0", out, re.MULTILINE)
    assert re.search(r"^trades +damaged", out, re.MULTILINE)
    assert "streamlab verify" in err


def test_info_says_everything(lab, run):
    """Columns, time, key and settings of a stream, or of all streams."""
    code, out, _ = run("info", lab, "trades")
    assert code == 0
    for part in ("timestamp[us, tz=UTC]", "not null", "symbol", "delay 0s", "for ever"):
        assert part in out
    code, out, _ = run("info", lab, "--json")
    [content] = rows_of(out)
    assert (content["time"], content["key"], content["partitions"]) == ("ts", ["symbol"], 1)
    assert [column["name"] for column in content["schema"]] == ["ts", "symbol", "price", "size"]


def test_what_info_calls_a_type_new_understands(lab, run, tmp_path):
    """The types that are shown can be typed: a schema survives being printed."""
    text = "a list<struct<x: decimal(9, 2), y: map<string, int8>>>, b timestamp[ns, tz=Europe/Berlin], c date, d binary"
    assert run("new", lab, "odd", "--schema", text)[0] == 0
    [content] = rows_of(run("info", lab, "odd", "--json")[1])
    again = ", ".join(
        f"{f['name']} {f['type']}".replace("item: ", "") for f in content["schema"][1:]
    )
    assert parse_schema(again).types == parse_schema(text).types[1:]


def test_tail_shows_the_last_rows(lab, run):
    """The last rows in order; numbers grouped, instants in UTC, controls as escapes."""
    code, out, _ = run("tail", lab, "trades", "-n", 2)
    assert code == 0
    assert "12,345.25" in out
    assert "1,000,000" in out
    assert "2026-01-05 09:30:01.500000Z" in out
    assert "\x1b" not in out
    assert r"A\x1b[31m" in out


@pytest.mark.parametrize(
    ("where", "offsets"),
    [("earliest", [0, 1, 2]), ("1", [1, 2]), ("end", []), ("2026-01-05T09:30:30Z", [2])],
)
def test_tail_from_a_place_shows_all_from_there(lab, run, where, offsets):
    """``--from`` takes an end, an offset or an event time."""
    _, out, _ = run("tail", lab, "trades", "--from", where, "--json")
    assert [row["_offset"] for row in rows_of(out)] == offsets


def test_tail_follows_what_comes():
    """``-f`` shows rows that another process appends, at once; it ends with what it was asked for."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, sl.open(f"{folder}/lab") as lab:
        stream = lab.create("s", {"a": [1]})
        command = [sys.executable, "-m", "streamlab", "tail", f"{folder}/lab", "s", "-f", "--json"]
        command += ["--from", "earliest", "-n", "3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            assert json.loads(follower.stdout.readline())["a"] == 1
            stream.append({"a": [2]})
            assert json.loads(follower.stdout.readline())["a"] == 2
            stream.append({"a": [3, 4]})
            assert json.loads(follower.stdout.readline())["a"] == 3
            assert follower.wait(30) == 0


def test_sql_is_a_table_json_or_csv(lab, run):
    """One query, three shapes; JSON keeps types, CSV is read back."""
    query = "SELECT symbol, sum(size) AS n, max(ts) AS t FROM trades GROUP BY ALL ORDER BY symbol LIMIT 1"
    code, out, err = run("sql", lab, query)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["symbol", "n", "t"]
    code, out, _ = run("sql", lab, query, "--json")
    assert rows_of(out)[0]["t"].startswith("2026-01-05T09:30:00")
    code, out, _ = run("sql", lab, query, "--csv")
    assert out.splitlines()[0] == '"symbol","n","t"'


def test_sql_cuts_long_tables_and_says_so(lab, run):
    """A table ends after a hundred rows unless asked, JSON never does."""
    _, out, err = run("sql", lab, "SELECT * FROM range(300)")
    assert len(out.splitlines()) == 102
    assert "first 100 rows" in err
    assert len(run("sql", lab, "SELECT * FROM range(300)", "--json")[1].splitlines()) == 300
    assert len(run("sql", lab, "SELECT * FROM range(300)", "-n", 0)[1].splitlines()) == 302
    assert len(run("sql", lab, "SELECT * FROM range(300)", "-n", 7, "--json")[1].splitlines()) == 7


def test_sql_as_of_an_instant_sees_what_was_there(lab, run):
    """``--as-of`` before the first append finds no stream, and now is not past."""
    [row] = rows_of(run("ls", lab, "--json")[1])
    query = "SELECT count(*) AS n FROM trades"
    code, out, _ = run("sql", lab, query, "--as-of", row["append_time"], "--json")
    assert (code, rows_of(out)) == (0, [{"n": 3}])
    assert run("sql", lab, query, "--as-of", "2000-01-01")[0] == 1


def test_a_table_keeps_to_the_width_of_the_terminal(lab, run, monkeypatch):
    """No line is wider than the terminal, and a number is never cut to another one."""
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run(
        "sql", lab, "SELECT repeat('x', 500) AS long, 123456789 AS number FROM range(1)"
    )
    assert max(map(len, out.splitlines())) <= 60
    assert "123,456,789" in out


# ------------------------------------------------------------------------------ filling


def test_append_takes_lines_from_standard_input(lab):
    """JSON on standard input is appended, and a bad line is named, those before it kept."""
    good = json.dumps(LINES[0]).encode()
    done = process("append", lab, "trades", input=good + b"\n\n" + good)
    assert (done.returncode, done.stdout) == (0, b"2 rows appended to trades: [3, 5)\n")
    done = process("append", lab, "trades", input=good + b"\n" + b'{"symbol": 5}\n' + good + b"\n")
    assert done.returncode == 1
    assert b'line 2 of standard input: column "symbol": 5 is no string' in done.stderr
    assert b"Traceback" not in done.stderr
    with sl.open(lab, read_only=True) as opened:
        assert len(opened["trades"]) == 6


def test_append_shows_lines_before_the_input_ends(lab):
    """A row is there for readers while the pipe that feeds it is still open."""
    command = [sys.executable, "-m", "streamlab", "append", lab, "trades"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as feeder:
        with sl.open(lab, read_only=True) as opened:
            follower = opened["trades"].follow("end", timeout=30, rows=1)
            feeder.stdin.write(json.dumps(LINES[0]).encode() + b"\n")
            feeder.stdin.flush()
            assert next(follower).num_rows == 1
        feeder.stdin.close()
        assert feeder.wait(30) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "jsonl", "tsv"])
def test_append_takes_what_export_wrote(lab, run, tmp_path, kind):
    """A file of each format goes out and in, whole; text is parsed into the stream's types."""
    path = tmp_path / f"out.{kind}"
    assert run("export", lab, "trades", path)[:2] == (0, f"3 rows written to {path}\n")
    code, out, _ = run("append", lab, "trades", path, "--json")
    assert (code, rows_of(out)) == (0, [{"stream": "trades", "rows": 3, "start": 3, "stop": 6}])
    with sl.open(lab, read_only=True) as opened:
        frame = opened["trades"].to_polars().select("ts", "symbol", "price", "size")
        assert frame[:3].equals(frame[3:])


def test_append_takes_csv_from_standard_input(lab):
    """``--format`` says what standard input is."""
    content = b"size,symbol,price,ts\n5,C,2.5,2026-01-05\n"
    done = process("append", lab, "trades", "-", "--format", "csv", input=content)
    assert (done.returncode, done.stderr) == (0, b"")
    with sl.open(lab, read_only=True) as opened:
        assert opened["trades"].tail(1).row(0, named=True)["price"] == 2.5


def test_a_file_that_does_not_fit_changes_nothing(lab, run, tmp_path):
    """One bad value, a missing or an unknown column: nothing of the file is appended."""
    path = tmp_path / "bad.csv"
    for text, says in [
        ("ts,symbol,price,size\n2026-01-05,A,1,1\n2026-01-05,A,x,1\n", '"price"'),
        ("ts,symbol,price\n2026-01-05,A,1\n", '"size"'),
        ("ts,symbol,price,size,odd\n2026-01-05,A,1,1,1\n", '"odd"'),
        ("ts,symbol,price,size\n2026-01-05,,1,1\n", '"symbol"'),
    ]:
        path.write_text(text)
        code, _, err = run("append", lab, "trades", path)
        assert code == 1
        assert err.startswith("streamlab: ")
        assert says in err
    assert rows_of(run("ls", lab, "--json")[1])[0]["rows"] == 3


def test_import_makes_a_stream_and_adds_to_it(tmp_path, run):
    """The first import makes lab and stream, the next one adds; wrong options are refused."""
    lab, file = tmp_path / "lab", tmp_path / "a.csv"
    file.write_text("t,k,v\n2026-01-05T09:30:00Z,a,1\n2026-01-05T09:31:00Z,b,2\n")
    code, out, _ = run("import", lab, "s", file, "--time", "t", "--key", "k", "--delay", "5s")
    assert (code, out) == (0, "2 rows imported into s (new), which ends at 2\n")
    code, out, _ = run("import", lab, "s", file, file, "--key", "k", "--json")
    assert rows_of(out) == [{"stream": "s", "rows": 4, "created": False, "end_offset": 6}]
    code, _, err = run("import", lab, "s", file, "--key", "t")
    assert (code, "--key" in err) == (1, True)
    [content] = rows_of(run("info", lab, "s", "--json")[1])
    assert [column["type"] for column in content["schema"]] == [
        "timestamp[us, tz=UTC]",
        "string",
        "int64",
    ]


def test_an_import_that_fails_makes_nothing(tmp_path, run):
    """A missing file leaves no lab, and columns that cannot be stored no stream."""
    lab = tmp_path / "lab"
    assert run("import", lab, "s", tmp_path / "none.csv")[0] == 1
    assert not lab.exists()
    (tmp_path / "a.csv").write_text("a,b\n1,\n")
    code, _, err = run("import", lab, "s", tmp_path / "a.csv")
    assert (code, '"b"' in err) == (1, True)
    assert run("ls", lab)[1].endswith("has no stream yet\n")


def test_new_takes_the_columns_of_a_file(tmp_path, run):
    """``--like`` takes the schema and no row."""
    (tmp_path / "a.csv").write_text("t,v\n2026-01-05,1\n")
    code, out, _ = run(
        "new",
        tmp_path / "lab",
        "s",
        "--like",
        tmp_path / "a.csv",
        "--time",
        "t",
        "--retention",
        "7d,10GB",
    )
    assert code == 0
    assert "date32[day]" in out
    assert "7d, 10.0 GB" in out
    assert rows_of(run("ls", tmp_path / "lab", "--json")[1])[0]["rows"] == 0


# ------------------------------------------------------------------------------ taking out, keeping


def test_export_takes_a_part(lab, run, tmp_path):
    """Event times, offsets and an append time bound what is written; folders by column."""
    for options, count in [
        (["--between", "2026-01-05T09:30:01Z", "2026-01-05T09:31:00Z"], 1),
        (["--offsets", 1, 3], 2),
        (["--partition-by", "symbol", "--no-system"], 3),
    ]:
        path = tmp_path / f"{options[0].strip('-')}{'' if 'by' in options[0] else '.csv'}"
        code, out, _ = run("export", lab, "trades", path, *options)
        assert (code, out) == (0, f"{count} row{'s' * (count > 1)} written to {path}\n")
    assert len(list((tmp_path / "partition-by").iterdir())) == 3
    assert run("export", lab, "trades", tmp_path / "offsets.csv")[0] == 1
    assert run("export", lab, "trades", tmp_path / "offsets.csv", "--overwrite")[0] == 0


def test_verify_is_0_or_1(lab, run, tmp_path):
    """A sound lab is 0; a flipped byte is 1, with the file; salvage saves the rest."""
    code, out, _ = run("verify", lab)
    assert (code, out.startswith("sound: 1 stream, ")) == (0, True)
    path = next((tmp_path / "lab" / "streams" / "trades").glob("*.log"))
    data = bytearray(path.read_bytes())
    data[data.index(b"12345.25") if b"12345.25" in data else data.index(b"ABA")] ^= 1  # a key
    path.write_bytes(data)
    code, out, err = run("verify", lab)
    assert (code, path.name in out, "--salvage" in err) == (1, True, True)
    code, out, _ = run("verify", lab, "--json")
    content = json.loads(out)
    assert (code, content["ok"], content["problems"][0]["stream"]) == (1, False, "trades")
    code, out, _ = run("verify", lab, "--salvage", tmp_path / "saved")
    assert code == 1
    assert "offsets [0, 3) are lost" in out
    assert sl.verify_lab(tmp_path / "saved")
    assert run("verify", lab, "--salvage", tmp_path / "saved")[0] == 1


def test_verify_works_where_the_lab_cannot_be_opened(lab, run, tmp_path):
    """A damaged lab.json is a finding, not the end of it."""
    (tmp_path / "lab" / "lab.json").write_bytes(b"\xff")
    code, out, _ = run("verify", lab)
    assert (code, "lab.json" in out, "3 rows" in out) == (1, True, True)


def test_compact_says_what_it_did_and_other_verbs_show_what_is_left(run, tmp_path):
    """`compact` prints a line for each stream; looking works after it, and export asks."""
    path = tmp_path / "lab"
    with sl.open(path) as lab:
        lab.create("plain", {"k": [1]})
        lab.create("keyed", {"k": [1, 2, 1], "v": [1, 2, 3]}, key="k", cleanup="compact")
    code, out, _ = run("compact", path)
    assert code == 0
    assert re.search(r"keyed +3 +2 +[01] ", out)  # 0: the background was there first
    assert "plain" not in out
    assert run("compact", path, "plain")[0] == 1
    code, out, _ = run("compact", path, "keyed", "--json")
    assert json.loads(out)["compacted_upto"] == 3
    assert run("ls", path)[0] == run("info", path, "keyed")[0] == 0
    code, out, _ = run("tail", path, "keyed", "--json")
    assert [json.loads(line)["v"] for line in out.splitlines()] == [2, 3]
    code, _, err = run("export", path, "keyed", tmp_path / "x.csv")
    assert code == 1
    assert "--compacted" in err
    assert run("export", path, "keyed", tmp_path / "x.csv", "--compacted")[0] == 0
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3


def test_demo_runs(tmp_path, capsys):
    """The demo makes its folder and ends well."""
    assert main(["demo", "--folder", str(tmp_path / "demo"), "--seconds", "1"]) == 0
    assert (tmp_path / "demo" / "lab" / "lab.json").exists()
    assert "streamlab ls" in capsys.readouterr().out


# ------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "LAB"], ["info", "LAB"], ["tail", "LAB", "s"], ["sql", "LAB", "SELECT 1"], ["append", "LAB", "s", "f"],
        ["export", "LAB", "s", "x.csv"], ["verify", "LAB"], ["verify", "LAB", "--salvage", "OTHER"],
    ],
)  # fmt: skip
def test_a_lab_that_is_not_there_is_not_made(arguments, run, tmp_path):
    """Looking at nothing is a mistake, and leaves nothing behind."""
    names = {"LAB": tmp_path / "none", "OTHER": tmp_path / "other"}
    code, out, err = run(*[names.get(word, word) for word in arguments])
    assert (code, out) == (1, "")
    assert re.match(r"streamlab: there is no lab at .*none\nHint: ", err)
    assert not list(tmp_path.iterdir())


def test_a_lab_one_level_down_is_hinted_at(lab, run, tmp_path):
    """Who names the folder around a lab is told where it is."""
    assert f"there is one at {lab}" in run("ls", tmp_path)[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tail", "LAB", "trade"], "did you mean 'trades'"),
        (["append", "LAB", "trade", "x.csv"], "did you mean 'trades'"),
        (["append", "LAB", "trades", "x.csv"], "there is no file"),
        (["sql", "LAB", "SELEC 1"], "syntax error"),
        (["sql", "LAB", "SELECT * FROM trade"], "did you mean trades"),
        (["sql", "LAB", "SELECT 'a'::INT"], "Could not convert"),
        (["sql", "LAB", "COPY trades TO 'x.csv'"], "streamlab export writes files"),
        (["sql", "LAB", "SELECT * FROM 'x.csv'"], "streamlab import loads a file"),
        (["sql", "LAB", "SELECT [1] AS a", "--csv"], "CSV has no list"),
        (["new", "LAB", "trades", "--schema", "a int"], "there is a stream"),
        (["new", "LAB", "a/b", "--schema", "a int"], "no name for a stream"),
        (["new", "LAB", "s", "--schema", "a it"], "did you mean int"),
        (["new", "LAB", "s", "--schema", "a list<int"], "is expected"),
        (["new", "LAB", "s", "--schema", ""], "a column is missing"),
        (["new", "LAB", "s", "--schema", "a int", "--delay", "5 minutes"], 'write "m" for minutes'),
        (["new", "LAB", "s", "--schema", "a int", "--retention", "7x"], "unit"),
        (["new", "LAB", "s", "--schema", "a int", "--time", "b"], "'b'"),
        (["new", "LAB", "s", "--schema", "a int", "--partitions", "0"], "partitions"),
        (["tail", "LAB", "trades", "--from", "yesterday"], "not an instant"),
        (["tail", "LAB", "trades", "--from", "99"], "holds [0, 3)"),
        (["export", "LAB", "trades", "x.xlsx"], "known are"),
        (["export", "LAB", "trades", "/nope/x.csv"], "no folder"),
    ],
)
def test_a_mistake_is_one_clear_line_and_1(arguments, says, lab, run):
    """No traceback, no guess: what was wrong, and where there is one, the next step."""
    code, out, err = run(*[lab if word == "LAB" else word for word in arguments])
    assert (code, out) == (1, "")
    assert err.startswith("streamlab: ")
    assert "Traceback" not in err
    assert says in err


def test_debug_shows_the_traceback(lab):
    """``STREAMLAB_DEBUG=1`` lets the error through."""
    done = process("tail", lab, "nope", env={**os.environ, "STREAMLAB_DEBUG": "1"})
    assert b"Traceback" in done.stderr


def test_a_closed_pipe_is_silent(lab):
    """``| head`` ends a command without a word on stderr."""
    query = "SELECT * FROM range(1000000)"
    for shape in ("--json", "--csv", "-n0"):
        command = f'{sys.executable} -m streamlab sql {lab} "{query}" {shape} | head -n 1'
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
        assert done.stdout
        assert done.stderr == b""


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["sql", "SELECT 1", "--json"]])
def test_a_closed_output_is_no_crash(lab, arguments):
    """A command whose standard output is closed from the start ends quietly."""
    words = " ".join(f"'{word}'" for word in [arguments[0], lab, *arguments[1:]])
    command = f"{sys.executable} -m streamlab {words} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.stderr == b""


def test_ctrl_c_is_130(lab):
    """An interrupt ends a follower with 130 and without a traceback."""
    command = [sys.executable, "-m", "streamlab", "tail", lab, "trades", "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
        assert follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
        assert b"Traceback" not in follower.stderr.read()


def test_looking_is_quick_to_import():
    """Neither the package nor ``ls`` loads matplotlib, DuckDB or Polars."""
    code = "import sys, streamlab.cli; print([m for m in ('duckdb', 'polars', 'matplotlib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_of_data_reaches_the_terminal_as_a_control():
    """Escapes, newlines, bidirectional marks and C1 controls are shown, not sent."""
    for code in [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066]:
        assert clean(f"a{chr(code)}b").isprintable()
    assert clean("plain ünïcode 漢字") == "plain ünïcode 漢字"


def test_query_answers_explains_and_fills_a_stream(run, lab):
    """Windowed SQL over history; into a stream each result goes once, however often it is run."""
    run("new", lab, "events", "--schema", "ts timestamp, k string", "--time", "ts")
    with sl.open(lab) as opened:
        frame = [
            {"ts": dt.datetime(2026, 1, 5, 9, 30, n, tzinfo=dt.UTC), "k": "ab"[n % 2]}
            for n in range(60)
        ]
        opened["events"].append(frame)
    text = "SELECT window_start, window_end, k, count(*) AS n FROM tumble(events, INTERVAL '10 seconds') GROUP BY ALL"
    code, out, _ = run("query", lab, text, "--final", "--json")
    assert code == 0
    assert [json.loads(line)["n"] for line in out.splitlines()] == [5] * 10
    assert "_final" in run("query", lab, text)[1]
    assert "recomputed by DuckDB" in run("query", lab, text, "--explain")[1]
    for _ in range(2):
        code, out, _ = run("query", lab, text, "--into", "counts")
        assert code == 0
        assert "60 rows in, 10 out" in out
    code, _, err = run("query", lab, "SELECT count(*) FROM events")
    assert code != 0
    assert "tumble" in err


def test_replay_prints_rows_as_they_are_due(lab, run, tmp_path):
    """Rows come in the order of stream time, as a table or JSON, cut by start and stop."""
    code, out, err = run("replay", lab, "trades", "--speed", "inf")
    assert (code, err) == (0, "")
    assert out.split()[0] == "_partition"  # one stream: no name
    assert len(out.splitlines()) == 5
    assert "\x1b" not in out
    run("new", lab, "quotes", "--schema", "ts timestamp, bid double", "--time", "ts")
    (tmp_path / "q.jsonl").write_text('{"ts": "2026-01-05T09:30:01Z", "bid": 1.5}\n')
    run("append", lab, "quotes", tmp_path / "q.jsonl")
    both = ["replay", lab, "trades", "quotes", "--speed", "600x", "--json", "--max-gap", "10ms"]
    code, out, _ = run(*both)
    assert [json.loads(line)["_stream"] for line in out.splitlines()] == [
        "trades", "quotes", "trades", "trades"
    ]  # fmt: skip
    code, out, _ = run(*both, "--start", "2026-01-05T09:30:01Z", "--stop", "2026-01-05T09:31Z")
    assert [json.loads(line)["_stream"] for line in out.splitlines()] == ["quotes", "trades"]
    code, out, _ = run("replay", lab, "trades", "quotes", "--speed", "inf", "--clock", "append")
    assert [line.split()[0] for line in out.splitlines()] == ["trades"] * 5 + ["quotes"] * 3
    code, _, err = run("replay", lab, "trades", "--start", "2027-01-01")
    assert code == 1
    assert "nothing to replay" in err


def test_ctrl_c_ends_a_replay(lab):
    """A replay that waits for the next row ends at once, with 130 and without a traceback."""
    command = [sys.executable, "-m", "streamlab", "replay", lab, "trades", "--speed", "0.001"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline().split()[0] == "_partition"
    assert child.stdout.readline().startswith("─")
    assert child.stdout.readline().split()[-2:] == ["1.5", "1"]
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err) == (130, "", "")
