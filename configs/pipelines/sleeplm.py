"""SleepLM, from a folder of recordings to a model that reads and writes sleep, judged and exported.

    python -m launch.pipeline --pipeline=configs/pipelines/sleeplm.py --output=DIR
    python -m launch.pipeline --pipeline=configs/pipelines/sleeplm.py:small --output=DIR \\
        --set data=SHHS --set builder=nsrr --set cohort=shhs

The argument is ``size`` or ``size,channels`` of ``configs/sleeplm/pretrain.py``, ``tiny,twelve`` by
default. Without ``data`` a synthetic cohort is written first. The facts of all nights are measured,
the model is trained, and beside it one whose signal encoder stays random: a rival, of which the
table of captions has a row. Options: ``data``; ``builder`` and ``cohort`` of ``prepare_nights``;
``nights`` and ``hours`` of the synthetic cohort; ``steps`` of training, where not the size's own;
``jobs``.
"""

import json

from configs.pipelines import Step

NIGHTS = "{output}/nights"
RIVAL = "rivals/random_encoder"


def get_pipeline(
    argument: str = "tiny,twelve",
    *,
    data: str = "",
    builder: str = "folder",
    cohort: str = "",
    nights: int = 40,
    hours: float = 1.0,
    steps: int = 0,
    jobs: int = 2,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring."""
    title = "SleepLM on own recordings" if data else "SleepLM on simulated nights"
    frozen = {"config.optim.freeze": "('network/signals',)"}
    beside = {"random encoder, trained decoder": f"{{output}}/{RIVAL}"}
    whole = {"workdir": "{output}/model", "output": "{output}/export"}
    return [
        *prepare(data, builder=builder, cohort=cohort, nights=nights, hours=hours, jobs=jobs),
        Step("caption_nights", "caption_nights", {"nights": NIGHTS, "jobs": jobs}, "nights/facts"),
        train("train", argument, "model", steps, {}),
        train("train rival", argument, RIVAL, steps, frozen),
        evaluate("evaluate rival", RIVAL, "evals.captions.rivals=[]"),
        evaluate("evaluate", "model", f"evals.captions.beside={json.dumps(beside)}"),
        Step("export", "export", whole, "export", 30),
        Step("report", "report", {"job": "{output}", "title": title}, "report.html", 10),
    ]


def prepare(
    data: str, *, builder: str, cohort: str, nights: int, hours: float, jobs: int
) -> list[Step]:
    """Return the steps that make ``nights``, of a folder of recordings or of simulated ones.

    Args:
        data: the folder; "" simulates.
        builder, cohort: of ``prepare_nights``.
        nights, hours: how many simulated ones, and their length.
        jobs: processes.
    """
    store = {"recipe": "sleeplm", "channels": "twelve", "output": NIGHTS, "builder": builder}
    store |= {"jobs": jobs, **({"cohort": cohort} if cohort else {})}
    if data:
        return [Step("prepare_nights", "prepare_nights", {"input": data, **store}, "nights", 60)]
    people = {"output": "{output}/recordings", "nights": nights, "seed": 0, "hours": hours}
    # Without the cohort, nobody would know what the codes of a position mean.
    store = {"input": "{output}/recordings", **store, "cohort": "synthetic"}
    return [
        Step("synthesize", "synthesize", people | {"jobs": jobs}, "recordings", 60),
        Step("prepare_nights", "prepare_nights", store, "nights", 60),
    ]


def train(name: str, argument: str, folder: str, steps: int, changes: dict) -> Step:
    """Return the training of a run.

    Args:
        name: of the step.
        argument: of ``configs/sleeplm/pretrain.py``.
        folder: of the run, relative to the pipeline's.
        steps: of training; 0 for the size's own.
        changes: further flags of ``launch.train``.
    """
    arguments = {
        "config": f"configs/sleeplm/pretrain.py:{argument}",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": NIGHTS,
        **({"config.train.steps": steps} if steps else {}),
        **changes,
    }
    return Step(name, "train", arguments, folder, 500)


def evaluate(name: str, folder: str, change: str) -> Step:
    """Return the evaluation of a run by all evaluators of its config, with one change of it."""
    arguments = {"workdir": f"{{output}}/{folder}", "set": (change,)}
    return Step(name, "evaluate", arguments, f"{folder}/evaluation.json", 150)
