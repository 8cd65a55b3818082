"""Prepare nights on Apache Beam: Dataflow, Flink, Spark or this machine (extra ``beam``).

Beam spreads what takes the time, the making of each night; every worker writes into the work
folder of the store, which all of them must see under the same path (a shared file system). The
shards are written by the process that started the pipeline, so the store is byte for byte the same.
"""

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions


def runner(options: str):
    """Return the ``run_all`` of :func:`night_builder.write_store` for options of a Beam runner.

    Args:
        options: As on Beam's command line, separated by spaces or commas, such as
            ``--runner=DirectRunner --direct_num_workers=2``.
    """
    arguments = options.replace(",", " ").split()

    def run_all(task, items):
        with apache_beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
            (
                pipeline
                | "Recordings" >> apache_beam.Create(items)
                # Without it a runner may fuse the steps and keep all nights on one worker.
                | "Spread" >> apache_beam.Reshuffle()
                | "Prepare" >> apache_beam.Map(task)
            )

    return run_all
