"""The Spark session with Delta's own jars."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from jobs.errors import DataError

# Small tables are slow with Delta's defaults: every commit re-reads a table's state in 50 tasks.
LOCAL = {
    "spark.master": "local[*]",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "3g",
    "spark.sql.shuffle.partitions": "4",
    # Cut fine, joined again by size: a large night's groups fit into memory, a small night has few tasks.
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "32",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    # Without a page nobody looks at what ran: a thousand plans kept for it would fill a small heap, and writing each of
    # them down whenever it changes takes a third of a small night.
    "spark.sql.ui.explainMode": "simple",
    "spark.sql.maxPlanStringLength": "20000",
    "spark.sql.ui.retainedExecutions": "10",
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
}
ALWAYS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # 64 bytes of binary in a plan are the key of the pseudonyms: never shown, nor written to an event log.
    "spark.redaction.string.regex": "(?:0x|X')?[0-9A-Fa-f]{128}'?",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Vectors are wide: a batch of 10,000 of them would not fit a small worker twice.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
    # What is kept on disk between steps is hashes, mostly: looking for a way to compress them finds none.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # Joins hash the smaller side where each part of it fits; sorting both costs more.
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "64m",
    # A partition that was computed and came out empty is recorded too: its memo says from what.
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",
    # A table keeps no cached size column statistics of vectors; the first columns are keys.
    "spark.databricks.delta.properties.defaults.dataSkippingNumIndexedCols": "8",
}


def start_session(extra: Mapping[str, str], app: str = "dsirm") -> SparkSession:
    """A session for local Spark unless the settings (`[storage.spark]`) or spark-submit name another master.

    Raises:
        DataError: Spark could not start, most often because Delta's jars could not be fetched.

    """
    from delta import configure_spark_with_delta_pip

    # Workers must run this interpreter, with this environment's packages, whatever `python3` is on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("PYARROW_IGNORE_TIMEZONE", "1")
    options = {**(LOCAL if "SPARK_ENV_LOADED" not in os.environ else {}), **ALWAYS, **extra}
    builder = SparkSession.builder.appName(app)
    for key, value in options.items():
        builder = builder.config(key, value)
    packages = [part for part in extra.get("spark.jars.packages", "").split(",") if part]
    try:
        session = configure_spark_with_delta_pip(builder, extra_packages=packages).getOrCreate()
    except PySparkRuntimeError as error:
        raise DataError(
            f"Spark did not start ({error.getCondition()}). Its first start fetches Delta's jars "
            "(io.delta:delta-spark_4.1_2.13:4.4.0) with Ivy: the lines above say what could not be fetched. Behind a "
            "mirror set storage.spark.'spark.jars.ivySettings' to your ivysettings.xml; with a half-filled local Maven "
            "repository (poms without jars) remove io/delta from it. Java must be a JDK 17."
        ) from error
    return session
