"""Apnea by the minute from heart beats of real nights, with few labelled people.

    python -m launch.pipeline --pipeline=configs/pipelines/real_apnea_rr.py --output=DIR \\
        --set data=FOLDER [--set test=FOLDER2]

``FOLDER/apnea-ecg-rr`` holds nights of beats with apnea by the minute, ``FOLDER/mmash`` unlabelled
nights of healthy people (``benchmarks/real/apnea_ecg_rr.py``, ``mmash.py``); people of ``FOLDER2``
are only ever judged, without it a third of the people of ``FOLDER``. A night is read as spectra of
the heart rate every 10 s (``benchmarks/real/heart_rate.py``). Night encoders are trained on it
without labels: of windows of 20 min (``minutes``), and of an hour (``hour``). Then minutes of apnea
are asked of frozen rows with 2, 5, 10 and all training people labelled, the same draws for all,
beside untrained networks, hand-made features with the minutes around, and the network of
``minutes`` fine-tuned and from scratch.

The argument is the size of the models, ``demo`` by default; ``test`` is for tests. Options:
``mmash=false`` leaves these nights out; ``seeds`` of each model; ``models`` and ``people`` by
commas; ``draws`` of labelled people; ``untrained`` seeds; ``finetune=false`` leaves out what is
trained with labels; ``whole_night=true`` gives probes the night's mean and spread; ``folds`` and
``fold`` choose other test people.
"""

import json

from configs.pipelines import Step

# Of a model: tokens of 30 s of a window, and between the starts of windows.
MODELS = {"minutes": (40, 10), "hour": (120, 30)}
STEPS = {"demo": 150, "test": 4}
CONTRAST = 0.3  # between slow, fast and level; as prototypes on other code had it
WINDOW = {"data.window_tokens": 40, "data.step_tokens": 10}
# To choose from on validation people, for fine-tuning and from scratch alike.
SETTINGS = {
    "demo": [{**WINDOW, "train.steps": 60}, {**WINDOW, "train.steps": 180}],
    "test": [{}],
}


def get_pipeline(
    size: str = "demo",
    *,
    data: str,
    test: str = "",
    mmash: bool = True,
    seeds: int = 3,
    models: str = "minutes",
    people: str = "2,5,10,0",
    draws: int = 12,
    untrained: int = 3,
    finetune: bool = True,
    whole_night: bool = False,
    folds: int = 3,
    fold: int = 0,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring.

    Raises:
        ValueError: no ``data``; an unknown size or model; fine-tuning without ``minutes``.
    """
    if not data:
        raise ValueError("data is empty: give the folder that holds apnea-ecg-rr and mmash")
    if size not in STEPS:
        raise ValueError(f"no size {size!r}; use one of {sorted(STEPS)}")
    chosen = models.split(",")
    if unknown := [name for name in chosen if name not in MODELS]:
        raise ValueError(f"models={models}: no {unknown[0]!r}; there are {[*MODELS]}")
    if finetune and "minutes" not in chosen:
        raise ValueError(f"models={models}: fine-tuning begins from minutes; or finetune=false")
    steps = [
        _arrays("apnea_ecg_rr", data=data, test=test, folds=folds, fold=fold),
        _nights("apnea_ecg_rr", "nights"),
    ]
    if mmash:  # into the same store
        steps += [_arrays("mmash", data=data), _nights("mmash", "nights/manifest.json")]
    runs = []
    for name in chosen:
        for seed in range(seeds):
            steps.append(_train(size, name, seed))
            runs.append(f"{name}={{output}}/models/{name}-{seed}")
    asked = {
        "models": ",".join(runs),
        "nights": "{output}/nights",
        "output": "{output}",
        "task": "apnea_unstaged",
        "epochs": 2,  # a minute
        "people": people,
        "draws": draws,
        "untrained": untrained,
        "title": "Apnea by the minute from heart beats, Apnea-ECG",
    }
    if whole_night:
        asked["whole_night"] = True
    if finetune:
        task = f"configs/night/finetune.py:{size},apnea_unstaged"
        asked |= {"finetune": task, "finetuned": "minutes", "settings": json.dumps(SETTINGS[size])}
    return [*steps, Step("label_efficiency", "label_efficiency", asked, "labels.md", 900)]


def _arrays(name, **options):
    output = f"arrays/{name}"
    arguments = {"set": name, **options, "output": f"{{output}}/{output}"}
    return Step(f"real_arrays {name}", "real_arrays", arguments, output, 30)


def _nights(name, output):
    arguments = {"builder": "arrays", "input": f"{{output}}/arrays/{name}"}
    arguments |= {"output": "{output}/nights"}
    return Step(f"prepare_nights {name}", "prepare_nights", arguments, output, 15)


def _train(size, name, seed):
    folder, (window, step) = f"models/{name}-{seed}", MODELS[name]
    arguments = {
        "config": f"configs/night/pretrain.py:{size},hybrid",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": "{output}/nights",
        "config.data.window_tokens": window,
        "config.data.step_tokens": step,
        "config.seed": seed,
        "config.train.steps": STEPS[size],
        "config.optim.warmup_steps": max(1, STEPS[size] // 10),
        "config.objective.contrast_weight": CONTRAST,
    }
    return Step(f"train {name} {seed}", "train", arguments, folder, 90)
