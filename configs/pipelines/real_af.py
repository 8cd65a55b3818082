"""Atrial fibrillation told from normal rhythm, after pretraining without labels on other people.

    python -m launch.pipeline --pipeline=configs/pipelines/real_af.py --output=DIR --set data=FOLDER [--set test=FOLDER]

(``make demo-real DATA=FOLDER``.) ``data`` has ``mitdb-lead1/`` and ``bidmc/``
(``launch.gather_public --which=ecg``), whose ECGs a tokenizer and the RQ-Transformers are trained
on, and ``cinc2017/``, whose records are judged and never trained on. The argument is one design or
several by commas, all by default, of which the last has the others beside it in its figure: what
of the tokens is read. ``published``: the tokenizer's codes alone; ``timing``: the timing levels
alone; ``mixed``: both. ``test`` has a further ``cinc2017/``, only judged by what the records of
``data`` taught the probes.

The recipe (sizes, steps, rate) was chosen elsewhere by prototypes on these training records; docs/real_nights.md
has what came out. The figure: ``DIR/mixed/figures/<step>_record_probe.png``.
"""  # noqa: E501

import json

from configs.pipelines import Step

# Ours; a small model for 17 hours of ECG. One modality alone has nobody to attend to.
MODEL = {
    "dim": 96,
    "layers": 3,
    "heads": 4,
    "local_window": 64,
    "wide_every": 0,
    "modality_every": 0,
    "depth_dim": 48,
    "depth_layers": 1,
    "depth_heads": 4,
    "dropout": 0.1,
    "layer_scale": 1.0,  # 0.01 of the released starts too slowly for some hundreds of steps
}
WINDOW_S, ROWS = 64, 16
LEVELS, CODES = 8, 256  # of the tokenizer
DESIGNS = {"published": "", "timing": "alone", "mixed": "beside"}  # -> config.data.timing


def get_pipeline(
    designs: str = "",
    *,
    data: str,
    test: str = "",
    tokenizer_steps: int = 1500,
    steps: int = 360,
    untrained: int = 4,
    jobs: int = 2,
) -> list[Step]:
    """Return the steps.

    Args:
        designs: names in ``DESIGNS`` by commas; all by default.
        data: the folder of public recordings.
        test: a folder with further records that are only judged; none by default.
        tokenizer_steps: updates of the tokenizer.
        steps: updates of each RQ-Transformer: 6 passes over the training records.
        untrained: seeds of random weights that stand beside.
        jobs: processes that prepare recordings.

    Raises:
        ValueError: another design, or no ``data``.
    """
    if not data:
        raise ValueError("data is empty: give the folder of public recordings")
    wanted = designs.split(",") if designs else list(DESIGNS)
    unknown = [name for name in wanted if name not in DESIGNS]
    if unknown:
        raise ValueError(f"no design {unknown[0]!r}; there are {list(DESIGNS)}")
    judged = {"judged": data} | ({"test": test} if test else {})
    gather = {"which": "ecg", "input": data, "output": "{output}/recordings"}
    own = {"jobs": jobs, "channels": "ecg"}
    tokenizer = {
        "config": "configs/hypnos/rvq_tokenizer.py:demo,ecg",
        "workdir": "{output}/tokenizers/ecg",
        "config.data.path": "{output}/nights",
        "config.objective.model.levels": LEVELS,
        "config.objective.model.codes": CODES,
        "config.train.steps": tokenizer_steps,
    }
    found = [
        Step("gather_public", "gather_public", gather, "recordings", 5),
        Step(
            "prepare_nights",
            "prepare_nights",
            {"input": "{output}/recordings", "output": "{output}/nights", **own},
            "nights",
            30,
        ),
        *(
            Step(
                f"prepare_nights of {name}",
                "prepare_nights",
                {
                    "builder": "cinc2017",
                    "input": f"{folder}/cinc2017",
                    "output": "{output}/" + name,
                    **own,
                },
                name,
                15,
            )
            for name, folder in judged.items()
        ),
        Step("train tokenizer", "train", tokenizer, "tokenizers/ecg", 120),
        *(
            Step(
                f"tokenize_nights of {name}",
                "tokenize_nights",
                {
                    "nights": "{output}/" + name,
                    "tokenizers": "{output}/tokenizers",
                    "timing": "ecg",
                    "output": "{output}/tokens/" + name,
                },
                f"tokens/{name}",
                30,
            )
            for name in ("nights", *judged)
        ),
    ]
    for i, design in enumerate(wanted):
        beside = wanted[:i] if i == len(wanted) - 1 else []
        found += _design(design, tuple(judged), steps, untrained, beside)
    return found


def _design(name, judged, steps, untrained, beside):
    """The model of one design, and what it is worth."""
    model = {
        "config": "configs/hypnos/rq_transformer.py:demo",
        "workdir": "{output}/" + name,
        "config.data.path": "{output}/tokens/nights",
        "config.data.timing": DESIGNS[name],
        "config.data.window_s": WINDOW_S,
        "config.train.batch_size": ROWS,
        "config.train.steps": steps,
        "config.train.stop_after": 0,  # the loss of codes says little of what timing levels teach
        "config.optim.learning_rate": 2e-3,
        "config.optim.warmup_steps": 30,
        "config.optim.weight_decay": 0.05,
        **{f"config.objective.model.{key}": value for key, value in MODEL.items()},
    }
    probe = {"type": "record_probe", "untrained": untrained}
    for key, which in zip(("tokens", "test"), judged):
        probe[key] = "{output}/tokens/" + which
    for key, which in zip(("signals", "test_signals"), judged):
        probe[key] = "{output}/" + which
    if beside:
        probe["beside"] = {other: "{output}/" + f"{other}/record_probe.json" for other in beside}
    return [
        Step(f"train RQ-Transformer, {name}", "train", model, name, 180),
        Step(
            f"evaluate, {name}",
            "evaluate",
            {
                "workdir": "{output}/" + name,
                "step": steps,  # the last: how many was chosen before anything was judged
                "set": "evals=" + json.dumps({"af": probe}),
            },
            f"{name}/record_probe.json",
            60,
        ),
    ]
