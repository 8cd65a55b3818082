"""The main job of Hypnos, from a folder of recordings to a report.

    python -m launch.pipeline --pipeline=configs/pipelines/demo.py --output=DIR      (``make demo``)
    python -m launch.pipeline --pipeline=configs/pipelines/demo.py --output=DIR --set data=FOLDER

The argument is the size of the models, ``demo`` by default. Without ``data`` a synthetic cohort is
written first. Options: ``data``, ``nights`` and ``hours`` (of the synthetic cohort), ``jobs``.
"""

from configs.pipelines import Step

# What a tokenizer of each signal type is trained on.
CHANNELS = {
    "eeg": ("eeg_c3", "eeg_c4"),
    "eog": ("eog_e1", "eog_e2"),
    "emg": ("emg_chin",),
    "ecg": ("ecg",),
    "resp": ("resp_abd", "resp_thx"),
}


def get_pipeline(
    size: str = "demo", *, data: str = "", nights: int = 12, hours: float = 1.0, jobs: int = 2
) -> list[Step]:
    """Return the steps.

    Args:
        size: of the models, as in ``configs/hypnos``.
        data: a folder of recordings, with scoring beside them; without it, synthetic ones.
        nights: how many synthetic ones.
        hours: length of each.
        jobs: processes that prepare recordings.
    """
    if data:
        return main_job(data, size=size, title="Own recordings", prepare={"jobs": jobs})
    cohort = {"output": "{output}/recordings", "nights": nights, "seed": 0, "hours": hours}
    return [
        Step("synthesize", "synthesize", cohort, "recordings", 40),
        *main_job(
            "{output}/recordings", size=size, title="Synthetic cohort", prepare={"jobs": jobs}
        ),
    ]


def main_job(
    recordings: str,
    *,
    title: str,
    size: str = "demo",
    prepare: dict | None = None,
    train: dict | None = None,
    embed: dict | None = None,
) -> list[Step]:
    """Return recordings -> nights -> tokenizers -> tokens -> RQ-Transformer -> report.

    Args:
        recordings: a folder.
        title: of the report.
        size: of the models.
        prepare: further arguments of ``prepare_nights``.
        train: further arguments of the RQ-Transformer's ``train``.
        embed: further arguments of ``embed``.
    """
    store = {"input": recordings, "output": "{output}/nights"}
    vectors = {
        "model": "{output}/export",
        "input": recordings,
        "output": "{output}/embeddings",
    }
    probe = {"config.evals.probe.nights": "{output}/nights", **(train or {})}
    return [
        Step("prepare_nights", "prepare_nights", store | (prepare or {}), "nights", 40),
        *train_model("nights", "", tuple(CHANNELS), size=size, train=probe),
        Step("evaluate", "evaluate", {"workdir": "{output}/model"}, "model/evaluation.json", 60),
        Step(
            "export",
            "export",
            {"workdir": "{output}/model", "output": "{output}/export"},
            "export",
        ),
        Step("embed", "embed", vectors | (embed or {}), "embeddings", 40),
        Step("report", "report", {"job": "{output}", "title": title}, "report.html", 10),
    ]


def train_model(
    nights: str, folder: str, signal_types: tuple[str, ...], *, size: str, train: dict | None = None
) -> list[Step]:
    """Return the tokenizers, the tokens and the RQ-Transformer of a store of nights.

    Args:
        nights: the store, relative to the pipeline's folder.
        folder: gets ``tokenizers tokens model``; relative to the pipeline's folder, ending in "/",
            or "".
        signal_types: to train tokenizers of, where the nights have such channels.
        size: of the models.
        train: further arguments of the RQ-Transformer's ``train``.
    """
    here = "{output}/" + folder
    tokenizers = [
        Step(
            f"train tokenizer {signal_type}",
            "train",
            {
                "config": f"configs/hypnos/rvq_tokenizer.py:{size},{signal_type}",
                "workdir": f"{here}tokenizers/{signal_type}",
                "config.data.path": "{output}/" + nights,
            },
            f"{folder}tokenizers/{signal_type}",
            50,
            (nights, CHANNELS[signal_type]),
        )
        for signal_type in signal_types
    ]
    tokens = {
        "nights": "{output}/" + nights,
        "tokenizers": f"{here}tokenizers",
        "output": f"{here}tokens",
    }
    model = {
        "config": f"configs/hypnos/rq_transformer.py:{size}",
        "workdir": f"{here}model",
        "config.data.path": f"{here}tokens",
        **(train or {}),
    }
    return [
        *tokenizers,
        Step("tokenize_nights", "tokenize_nights", tokens, f"{folder}tokens", 30),
        Step("train RQ-Transformer", "train", model, f"{folder}model", 120),
    ]
