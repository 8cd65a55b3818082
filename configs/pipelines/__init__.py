"""Pipelines: longer jobs as lists of commands of ``launch``, which ``launch.pipeline`` runs.

A file has ``get_pipeline(argument, **options) -> list[Step]``: the argument comes from
``--pipeline=FILE:ARGUMENT``, the options from ``--set``; all have defaults, unless the pipeline
cannot do without them. A step only reads what is given or what steps before it have made.
"""

from typing import NamedTuple


class Step(NamedTuple):
    """One command of a pipeline, as plain data.

    Attributes:
        name: of its own in the pipeline.
        command: a module of ``launch``, such as ``"train"``.
        arguments: flag -> value, or a tuple of values of a flag that is repeated. ``{output}`` in
            a value stands for the pipeline's folder.
        output: the file or folder that the step makes, relative to the pipeline's folder; no other
            step has the same.
        expected_s: about what it takes on two cores, for the first estimate of the time left.
        needs: a store, relative to the pipeline's folder, and names: of channels, patterns such as
            ``"eeg_*"``, or labels of events (``data_pipelines.labels.EVENT_LABELS``). Where no
            training night of the store has any of them, the step is left out. None for a step that
            always runs.
    """

    name: str
    command: str
    arguments: dict[str, str | int | float | bool | tuple]
    output: str
    expected_s: float = 20.0
    needs: tuple[str, tuple[str, ...]] | None = None
