"""The main job of Hypnos on small public recordings (``make demo-real DATA=FOLDER`` runs both).

    python -m launch.pipeline --pipeline=configs/pipelines/demo_real.py:ecg --output=DIR --set data=FOLDER
    python -m launch.pipeline --pipeline=configs/pipelines/demo_real.py:psg --output=DIR --set data=FOLDER

``ecg``: atrial fibrillation in ECGs (PhysioNet CinC 2017); ``psg``: sleep stages in EEG. The folder
has ``cinc2017/`` (records and ``REFERENCE.csv``), ``dynamo/`` (DYNAM-O: 84 min of scored EEG),
``sleep-edf/`` and ``nox-a1/``.
"""  # noqa: E501

from configs.pipelines import Step
from configs.pipelines.demo import main_job

ALIASES = {"aliases": "configs/pipelines/public_aliases.toml"}
CINC_WINDOW_S = 32  # the records' median length


def get_pipeline(which: str = "psg", *, data: str, size: str = "demo", jobs: int = 2) -> list[Step]:
    """Return the steps.

    Args:
        which: ``"ecg"`` or ``"psg"``.
        data: the folder of public recordings.
        size: of the models, as in ``configs/hypnos``.
        jobs: processes that prepare recordings.

    Raises:
        ValueError: another ``which``, or no ``data``.
    """
    if not data:
        raise ValueError("data is empty: give the folder of public recordings")
    if which == "ecg":
        return main_job(
            f"{data}/cinc2017",
            title="CinC 2017: single-lead ECGs",
            size=size,
            prepare={"builder": "cinc2017", "jobs": jobs},
            train={"config.data.window_s": CINC_WINDOW_S},
        )
    if which != "psg":
        raise ValueError(f"no recordings {which!r}; use ecg or psg")
    gather = {"input": data, "output": "{output}/recordings"}
    return [
        Step("gather_public", "gather_public", gather, "recordings", 5),
        *main_job(
            "{output}/recordings",
            title="Small public sleep recordings",
            size=size,
            prepare={"jobs": jobs, **ALIASES},
            embed=ALIASES,
        ),
    ]
