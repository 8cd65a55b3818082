"""The main job of Hypnos on small public recordings of sleep (``make demo-real DATA=FOLDER``).

    python -m launch.pipeline --pipeline=configs/pipelines/demo_real.py --output=DIR --set data=FOLDER

Stages in EEG. The folder has ``dynamo/`` (DYNAM-O: 84 min of scored EEG), ``sleep-edf/`` and
``nox-a1/``. ECGs are the matter of ``real_af.py``.
"""  # noqa: E501

from configs.pipelines import Step
from configs.pipelines.demo import main_job

ALIASES = {"aliases": "configs/pipelines/public_aliases.toml"}


def get_pipeline(size: str = "demo", *, data: str, jobs: int = 2) -> list[Step]:
    """Return the steps.

    Args:
        size: of the models, as in ``configs/hypnos``.
        data: the folder of public recordings.
        jobs: processes that prepare recordings.

    Raises:
        ValueError: no ``data``.
    """
    if not data:
        raise ValueError("data is empty: give the folder of public recordings")
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
