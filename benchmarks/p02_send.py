"""P2: one event at a time from one thread, against confluent-kafka.

The peer produces the same events as JSON into librdkafka's own mock cluster, in this process.
That is kind to it, since the mock keeps nothing and syncs nothing, and unkind, since its broker
shares the cores with the producer; "encode only" is JSON alone, without any Kafka.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pyarrow as pa

import streamlab as sl
from benchmarks.measure import Reach, Scale, alternate, folder, heading, report
from benchmarks.trades import SCHEMA, events

ROWS = 2_000_000


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(ROWS)
    data = events(rows)
    heading("P2", f"send {rows:,} events one at a time, one thread, until acknowledged")
    with folder() as place:
        contenders = {
            'streamlab, sync="os"': lambda: streamlab(place, data, "os"),
            'streamlab, sync="always"': lambda: streamlab(place, data, "always"),
            "json.dumps alone": lambda: encode(data),
        }
        try:
            import confluent_kafka  # noqa: F401
        except ImportError:
            print("  confluent-kafka is not installed: pip install confluent-kafka")
        else:
            contenders["confluent-kafka"] = lambda: kafka(data)
        times = alternate(contenders, scale.rounds)
    ours = 'streamlab, sync="os"'
    reaches = [Reach(ours, "json.dumps alone")]
    if "confluent-kafka" in times:
        reaches = [Reach(ours, "confluent-kafka", 3.0), *reaches]
    report(times, reaches, rows=rows, unit="events")
    print("  reach of events/s: 1 M on an idle core")
    print(
        "  the mock broker neither stores nor syncs (kind to Kafka) and runs in the producer's process,"
    )
    print("  on the same cores (unkind); its queue is as large as it needs to be not to wait.")


def streamlab(place: Path, data: list[dict], sync: str) -> float:
    schema = SCHEMA.set(0, SCHEMA.field("ts").with_type(pa.int64()))
    with sl.open(place / "lab", sync=sync) as lab:
        stream = lab.create("trades", schema)
        started = time.perf_counter()
        with stream.writer() as writer:
            send = writer.send
            for event in data:
                send(event)
        took = time.perf_counter() - started
        assert len(stream) == len(data)
    shutil.rmtree(place / "lab")
    return took


def encode(data: list[dict]) -> float:
    started = time.perf_counter()
    dumps = json.dumps
    for event in data:
        dumps(event).encode()
    return time.perf_counter() - started


def kafka(data: list[dict]) -> float:
    from confluent_kafka import Producer

    options = {
        "test.mock.num.brokers": 1,
        "bootstrap.servers": "127.0.0.1:1",  # replaced by the mock cluster's
        "queue.buffering.max.messages": 10_000_000,
        "queue.buffering.max.kbytes": 2_000_000,
        "linger.ms": 5,
        "log_level": 0,
    }
    producer = Producer(options)
    producer.produce("trades", b"warm")
    producer.flush()
    started = time.perf_counter()
    produce, dumps = producer.produce, json.dumps
    for event in data:
        produce("trades", dumps(event).encode())
    left = producer.flush(120)
    took = time.perf_counter() - started
    assert not left, left
    return took
