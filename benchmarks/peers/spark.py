"""P5 in Spark Structured Streaming: two local cores, one Parquet file a trigger, state on disk.

The sink is "noop", the mode is append: a window is given once, when the watermark has passed it, and
those open at the end of the input never are. The session and the JVM are started before the clock.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as f


def main(place: Path) -> None:
    settings = {
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.driver.memory": "4g",
        "spark.sql.streaming.numRecentProgressUpdates": "10000",
    }
    builder = SparkSession.builder.master("local[2]").appName("windows")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    folder = str(place / "parquet")
    schema = spark.read.parquet(folder).schema
    trades = spark.readStream.schema(schema).option("maxFilesPerTrigger", 1).parquet(folder)
    price, size = f.col("price"), f.col("size")
    windows = (
        trades.withWatermark("ts", "5 seconds")
        .groupBy(f.window("ts", "1 minute"), "symbol")
        .agg(
            f.count("*").alias("n"),
            f.sum(size).alias("volume"),
            (f.sum(price * size) / f.sum(size)).alias("vwap"),
            f.min(price).alias("low"),
            f.max(price).alias("high"),
            f.max_by(price, "ts").alias("last"),
        )
    )
    with tempfile.TemporaryDirectory() as checkpoint:
        started = time.perf_counter()
        running = (
            windows.writeStream.format("noop")
            .outputMode("append")
            .option("checkpointLocation", checkpoint)
            .trigger(availableNow=True)
            .start()
        )
        running.awaitTermination()
        seconds = time.perf_counter() - started
        out = sum(
            int(epoch["sink"]["numOutputRows"]) for epoch in map(progress, running.recentProgress)
        )
        spark.stop()
    print(json.dumps({"seconds": seconds, "windows": out}))


def progress(epoch) -> dict:
    """Return what Spark tells about an epoch as a dict, whichever way it tells it."""
    return epoch if isinstance(epoch, dict) else json.loads(epoch.json)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
