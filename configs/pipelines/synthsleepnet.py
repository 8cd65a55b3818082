"""SynthSleepNet, from a folder of recordings to answers: its three stages, judged and exported.

    python -m launch.pipeline --pipeline=configs/pipelines/synthsleepnet.py --output=DIR
    python -m launch.pipeline --pipeline=configs/pipelines/synthsleepnet.py:base --output=DIR \\
        --set data=SHHS --set builder=nsrr --set cohort=shhs

The argument is the size of the models, ``demo`` by default. Without ``data`` a synthetic cohort is
written first. Stage 1 is trained on each type of channel that the nights have, stage 2 on all of
their channels, stage 3 on each task that they have labels for. Options: ``data``; ``recipe``, such
as ``sleep_edfx``, ``builder`` and ``cohort`` of ``prepare_nights``; ``nights`` and ``hours`` of the
synthetic cohort; ``tasks`` (by commas) and ``protocol`` of stage 3; ``jobs``.
"""

import json

from configs.pipelines import Step
from configs.synthsleepnet.neuronet import TYPES

NIGHTS = "{output}/nights"
TASKS = "stage5,apnea_only,hypopnea_only"


def get_pipeline(
    size: str = "demo",
    *,
    data: str = "",
    recipe: str = "synthsleepnet",
    builder: str = "folder",
    cohort: str = "",
    nights: int = 40,
    hours: float = 1.0,
    tasks: str = TASKS,
    protocol: str = "context",
    jobs: int = 2,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring."""
    title = "SynthSleepNet on own recordings" if data else "SynthSleepNet on simulated nights"
    own = {"config.data.recipe": recipe, "config.data.modalities": "()"}  # all of the store
    store = {"recipe": recipe, "builder": builder, "cohort": cohort, "jobs": jobs}
    steps = [
        *prepare(data, nights=nights, hours=hours, **store),
        *train_encoders(size, recipe=recipe),
        fuse(size, "stage 2", "model", own),
        evaluate("stage 2", "model"),
    ]
    questions = tasks.split(",")
    for task in questions:
        changes = own | {"config.train.init_from": "{output}/model"}
        steps += answer(f"{size},{protocol},{task}", f"stage 3 {task}", f"tasks/{task}", changes)
    for task in questions:
        arguments = {
            "workdir": f"{{output}}/tasks/{task}",
            "output": f"{{output}}/answering/{task}",
        }
        arguments["best"] = True
        steps.append(
            Step(f"export {task}", "export", arguments, f"answering/{task}", 60, needs(task))
        )
    whole = {"workdir": "{output}/model", "output": "{output}/export"}
    embed = {"model": "{output}/export", "input": NIGHTS, "output": "{output}/embeddings"}
    table = {"runs": "{output}/tasks", "output": "{output}/table", "title": title}
    return [
        *steps,
        Step("export stage 2", "export", whole, "export", 60),
        Step("embed", "embed", embed, "embeddings", 60),
        Step("tabulate", "tabulate", table, "table/table.md", 10),
        Step("report", "report", {"job": "{output}", "title": title}, "report.html", 10),
    ]


def prepare(
    data: str, *, recipe: str, builder: str, cohort: str, nights: int, hours: float, jobs: int
) -> list[Step]:
    """Return the steps that make ``nights``, of a folder of recordings or of simulated ones.

    Args:
        data: the folder; "" simulates.
        recipe, builder, cohort: of ``prepare_nights``.
        nights, hours: how many simulated ones, and their length.
        jobs: processes.
    """
    store = {"recipe": recipe, "output": NIGHTS, "builder": builder, "jobs": jobs}
    store |= {"cohort": cohort} if cohort else {}
    if data:
        return [Step("prepare_nights", "prepare_nights", {"input": data, **store}, "nights", 60)]
    people = {"output": "{output}/recordings", "nights": nights, "seed": 0, "hours": hours}
    store = {"input": "{output}/recordings", **store}
    return [
        Step("synthesize", "synthesize", people | {"jobs": jobs}, "recordings", 40),
        Step("prepare_nights", "prepare_nights", store, "nights", 40),
    ]


def train_encoders(size: str, *, recipe: str) -> list[Step]:
    """Return stage 1 of each type of channel, where the nights have such channels."""
    return [
        Step(
            f"stage 1 {kind}",
            "train",
            {
                "config": f"configs/synthsleepnet/neuronet.py:{size},{kind}",
                "workdir": f"{{output}}/encoders/{kind}",
                "config.data.path": NIGHTS,
                "config.data.recipe": recipe,
                "config.data.modalities": f"('{kind}*',)",  # of those, what the nights have
            },
            f"encoders/{kind}",
            150,
            ("nights", (f"{kind}*",)),
        )
        for kind in TYPES
    ]


def fuse(argument: str, name: str, folder: str, changes: dict) -> Step:
    """Return stage 2, which begins from the encoders of its channels' types.

    Args:
        argument: of ``configs/synthsleepnet/pretrain.py``.
        name: of the step.
        folder: of the run, relative to the pipeline's.
        changes: flags of ``launch.train``.
    """
    encoders = [
        {
            "source": f"{{output}}/encoders/{kind}",
            "subtrees": [["network/encoder", f"network/encoder_{kind}"]],
            "optional": True,  # for nights, or a choice of channels, without this type
        }
        for kind in TYPES
    ]
    arguments = {
        "config": f"configs/synthsleepnet/pretrain.py:{argument}",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": NIGHTS,
        "config.train.init_from": json.dumps(encoders),
        **changes,
    }
    return Step(name, "train", arguments, folder, 150)


def evaluate(name: str, folder: str, *, needs: tuple | None = None, best: bool = False) -> Step:
    """Return the evaluation of a run by all evaluators of its config."""
    arguments = {"workdir": f"{{output}}/{folder}", **({"best": True} if best else {})}
    return Step(f"evaluate {name}", "evaluate", arguments, f"{folder}/evaluation.json", 60, needs)


def answer(argument: str, name: str, folder: str, changes: dict) -> list[Step]:
    """Return stage 3 of one task, and its test at the checkpoint that validation chose.

    Args:
        argument: of ``configs/synthsleepnet/finetune.py``.
        name: of the first step.
        folder: of the run, relative to the pipeline's.
        changes: flags of ``launch.train``, such as the run to begin from.
    """
    wanted = needs(argument.split(",")[2])
    arguments = {
        "config": f"configs/synthsleepnet/finetune.py:{argument}",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": NIGHTS,
        **changes,
    }
    return [
        Step(name, "train", arguments, folder, 90, wanted),
        evaluate(name, folder, needs=wanted, best=True),
    ]


def needs(task: str) -> tuple | None:
    """Return what the nights must have for a task; staging is asked of all."""
    return None if task.startswith("stage") else ("nights", (task,))
