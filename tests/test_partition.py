"""The partition of a key is the one that Kafka's own clients give it."""

import datetime as dt
import decimal
import random

import confluent_kafka
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlab.partition import murmur2, partitions

KAFKA_VECTORS = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def kafka_partitions(keys):
    """What librdkafka's murmur2 partitioner gives these keys, and the count of partitions."""
    producer = confluent_kafka.Producer(
        {
            "bootstrap.servers": "",
            "test.mock.num.brokers": 1,
            "partitioner": "murmur2_random",
            "log_level": 0,
        }
    )
    given_to: dict[bytes, int] = {}

    def delivered(error, message):
        assert error is None, error
        given_to[message.key() or b""] = message.partition()

    for key in keys:
        producer.produce("keys", value=b"", key=key, on_delivery=delivered)
    assert producer.flush(30) == 0
    count = len(producer.list_topics("keys", timeout=10).topics["keys"].partitions)
    return [given_to[key] for key in keys], count


def js(*columns, count=1_000_003):
    """The partitions of key columns among so many that equal ones mean equal bytes."""
    return partitions(list(columns), count, 0).to_pylist()


def text(*texts, count=1_000_003):
    """The partitions of the bytes of these texts."""
    return [(int(h) & 0x7FFFFFFF) % count for h in murmur2(pa.array(texts, pa.string()))]


def test_murmur2_gives_the_vectors_of_kafkas_own_unit_test():
    """Each key of Kafka's test has the hash that the test expects."""
    assert murmur2(pa.array(list(KAFKA_VECTORS))).tolist() == list(KAFKA_VECTORS.values())


def test_a_key_goes_where_librdkafka_sends_it():
    """A few hundred keys of all lengths, Unicode and empty too, agree with a Kafka producer."""
    choose = random.Random(7)
    keys = {choose.randbytes(length) for length in range(1, 41) for _ in range(8)}
    keys |= {b"AAPL", "Zürich".encode(), "東京".encode(), "🚀".encode(), b""}
    keys = sorted(keys)
    wanted, count = kafka_partitions(keys)
    assert count > 1
    assert partitions([pa.array(keys, pa.binary())], count, 0).to_pylist() == wanted


def test_an_integer_key_goes_where_kafkas_long_serializer_sends_it():
    """An integer of any width has the bytes of a big-endian signed long."""
    numbers = [0, 1, -1, 255, -128, 2**31, -(2**63), 2**63 - 1]
    wanted, count = kafka_partitions([n.to_bytes(8, "big", signed=True) for n in numbers])
    assert partitions([pa.array(numbers, pa.int64())], count, 0).to_pylist() == wanted
    for kind in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64()):
        small = pa.array([0, 1, 100], kind)
        assert js(small) == js(small.cast(pa.int64()))


@given(st.lists(st.binary(max_size=40), max_size=30), st.randoms())
def test_the_hash_of_a_key_does_not_depend_on_its_company(keys, choose):
    """Hashing many keys at once, in any order, is hashing each alone."""
    together = murmur2(pa.array(keys, pa.binary())).tolist()
    assert together == [murmur2(pa.array([key], pa.binary()))[0] for key in keys]
    shuffled = choose.sample(keys, len(keys))
    assert sorted(murmur2(pa.array(shuffled, pa.binary())).tolist()) == sorted(together)


KEYS = st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=1, max_size=40)


@given(KEYS, st.integers(1, 9), st.integers(0, 2**62), st.data())
def test_partitions_do_not_depend_on_how_rows_are_divided(keys, count, first, data):
    """Two appends give the rows the partitions that one append gives them, nulls included."""
    cut = data.draw(st.integers(0, len(keys)))
    column = pa.array(keys, pa.string())
    numbers = pa.array(range(len(keys)), pa.int64())
    for columns in ([column], [column, numbers]):
        whole = partitions(columns, count, first).to_pylist()
        left = partitions([c[:cut] for c in columns], count, first).to_pylist()
        right = partitions([c[cut:] for c in columns], count, first + cut).to_pylist()
        assert left + right == whole


def test_null_keys_go_round_robin_by_their_own_offset():
    """Only a key that is null in all its columns takes turns; the turn is its offset's."""
    nulls = pa.nulls(5, pa.string())
    assert partitions([nulls], 3, 10).to_pylist() == [1, 2, 0, 1, 2]
    assert partitions([nulls, nulls], 3, 10).to_pylist() == [1, 2, 0, 1, 2]
    half = partitions([nulls, pa.array(["a"] * 5)], 3, 10).to_pylist()
    assert len(set(half)) == 1
    assert js(nulls, pa.array(["a"] * 5))[0] == text('[null,"a"]')[0]


def test_one_partition_takes_every_row():
    """With one partition every row, of whatever key, is in partition 0."""
    result = partitions([pa.array(["a", None, "b"])], 1, 5)
    assert result.type == pa.int32()
    assert result.to_pylist() == [0, 0, 0]


def test_no_rows_have_no_partitions():
    """An empty batch gives an empty array of the same type."""
    for kind in (pa.string(), pa.int64(), pa.float64(), pa.list_(pa.int8())):
        empty = pa.array([], kind)
        assert partitions([empty], 4, 0) == pa.array([], pa.int32())
        assert partitions([empty, empty], 4, 0) == pa.array([], pa.int32())


def test_text_and_binary_of_any_kind_hash_by_their_bytes():
    """A string, a large string and their bytes in any binary type are the same key."""
    words = pa.array(["abcd", "wxyz", "abcd"])
    wanted = js(words)
    for kind in (pa.large_string(), pa.binary(), pa.large_binary()):
        assert js(words.cast(kind)) == wanted
    assert js(words.cast(pa.binary()).cast(pa.binary(4))) == wanted
    assert js(pa.array(["zz", "abcd", "wxyz", "abcd"])[1:]) == wanted


UTC = dt.timezone.utc  # noqa: UP017
NOON = dt.datetime(2026, 1, 5, 12, 0, 0, 500_000)


@pytest.mark.parametrize(
    ("values", "kind", "json"),
    [
        ([1.0, -0.0, 0.1], pa.float64(), ["1.0", "0.0", "0.1"]),
        ([float("nan"), float("inf")], pa.float64(), ["NaN", "Infinity"]),
        ([True, False], pa.bool_(), ["true", "false"]),
        ([decimal.Decimal("1.50")], pa.decimal128(9, 2), ['"1.50"']),
        ([dt.date(2026, 1, 5)], pa.date32(), ['"2026-01-05"']),
        ([NOON], pa.timestamp("us"), ['"2026-01-05T12:00:00.5"']),
        ([NOON], pa.timestamp("ns", "Asia/Tokyo"), ['"2026-01-05T12:00:00.5Z"']),
        ([dt.time(9, 30)], pa.time64("us"), ['"09:30:00"']),
        ([dt.timedelta(seconds=-1.5)], pa.duration("ms"), ['"-1.5"']),
        ([[1, None]], pa.list_(pa.int8()), ["[1,null]"]),
        ([[1, 2]], pa.list_(pa.int8(), 2), ["[1,2]"]),
        (
            [{"a": "é", "b": b"x"}],
            pa.struct([("a", "string"), ("b", "binary")]),
            ['{"a":"é","b":"eA=="}'],
        ),
        ([[("k", 1)], []], pa.map_(pa.string(), pa.int8()), ['[["k",1]]', "[]"]),
    ],
)
def test_any_other_key_hashes_by_its_json(values, kind, json):
    """A key of another type has the bytes of the JSON that the module describes."""
    key = pa.array([*values, values[0]], kind)
    assert js(key) == text(*json, json[0])
    assert js(key, key) == text(*(f"[{part},{part}]" for part in [*json, json[0]]))


def test_several_columns_hash_by_the_json_list_of_their_values():
    """A key of several columns has the bytes of a compact JSON list, nulls as null."""
    symbols, numbers = pa.array(["A", "Ü", None, "A"]), pa.array([1, None, 3, 1], pa.int32())
    wanted = text('["A",1]', '["Ü",null]', "[null,3]", '["A",1]')
    assert js(symbols, numbers) == wanted


def test_a_finer_unit_leaves_an_instant_in_its_partition():
    """Widening a key from seconds to microseconds moves no key."""
    seconds = pa.array([0, 1, 1_767_571_200], pa.timestamp("s", "UTC"))
    assert js(seconds) == js(seconds.cast(pa.timestamp("us", "UTC")))
    spans = pa.array([0, 90], pa.duration("s"))
    assert js(spans) == js(spans.cast(pa.duration("ns")))
