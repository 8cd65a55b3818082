"""Sleep stages from band powers of real nights (Sleep-EDF), with few labelled people.

    python -m launch.pipeline --pipeline=configs/pipelines/real_stages_psd.py --output=DIR \\
        --set data=FOLDER [--set test=FOLDER2]

``FOLDER/sleep-edf-bandpower`` holds nights as band powers of three channels an epoch
(``benchmarks/real/sleep_edf_bandpower.py``); people of ``FOLDER2`` are only ever judged, without it
a fifth of the people of ``FOLDER``. Three families are trained on the same nights with the same
floating-point operations (``STEPS``): masked prediction by channel, with a little contrast between
channels (``hybrid``) and without (``masked``); contrast alone (``contrast``, towers of sleep2vec);
and the next token over quantised epochs (``next``, the RQ-Transformer of Hypnos). Then stages are
asked of frozen rows with 1, 3, 10 and all training people labelled, the same draws for all, beside
untrained networks, hand-made features, and the hybrid's network fine-tuned and from scratch.

The argument is the size of the models, ``demo`` by default; ``test`` is for tests. Options:
``seeds`` of each family; ``families`` and ``people`` by commas; ``draws`` of labelled people;
``untrained`` seeds; ``finetune=false`` leaves out what is trained with labels; ``folds`` and
``fold`` choose other test people.
"""

import json

from configs.pipelines import Step

# Of a family: config, and argument after the size.
FAMILIES = {
    "hybrid": ("night/pretrain.py", ",hybrid"),
    "masked": ("night/pretrain.py", ",masked"),
    "contrast": ("sleep2vec/pretrain.py", ",info_nce"),
    "next": ("night/next_epoch.py", ""),
}
# As large as the others, of windows as long.
TOWERS = {
    "demo": {
        "config.objective.model.layers": 3,
        "config.objective.model.ffn_dim": 128,
        "config.data.window_tokens": 120,
        "config.train.batch_size": 16,
    },
    "test": {},
}
# Steps of equal FLOPs, as ``hypnos_jax.cost`` counts them; a test holds them to it. 1.62e12 are 250
# steps of the hybrid, whose prototypes were best there.
STEPS = {
    "demo": {"hybrid": 250, "masked": 746, "contrast": 420, "next": 104},
    "test": {"hybrid": 4, "masked": 4, "contrast": 4, "next": 4},
}
# To choose from on validation people, for fine-tuning and from scratch alike.
SETTINGS = {
    "demo": [{"train.steps": 80}, {"train.steps": 240, "optim.warmup_steps": 24}],
    "test": [{}],
}


def get_pipeline(
    size: str = "demo",
    *,
    data: str,
    test: str = "",
    seeds: int = 3,
    families: str = ",".join(FAMILIES),
    people: str = "1,3,10,0",
    draws: int = 12,
    untrained: int = 3,
    finetune: bool = True,
    folds: int = 0,
    fold: int = 0,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring.

    Raises:
        ValueError: no ``data``; an unknown size or family; fine-tuning without the hybrid.
    """
    if not data:
        raise ValueError("data is empty: give the folder that holds sleep-edf-bandpower")
    if size not in STEPS:
        raise ValueError(f"no size {size!r}; use one of {sorted(STEPS)}")
    chosen = families.split(",")
    if unknown := [name for name in chosen if name not in FAMILIES]:
        raise ValueError(f"families={families}: no {unknown[0]!r}; there are {[*FAMILIES]}")
    if finetune and "hybrid" not in chosen:
        raise ValueError(f"families={families}: fine-tuning begins from hybrid; or finetune=false")
    arrays = {"set": "sleep_edf_bandpower", "data": data, "test": test, "output": "{output}/arrays"}
    arrays |= {"folds": folds, "fold": fold}
    nights = {"builder": "arrays", "input": "{output}/arrays", "output": "{output}/nights"}
    steps = [
        Step("real_arrays", "real_arrays", arrays, "arrays", 5),
        Step("prepare_nights", "prepare_nights", nights, "nights", 25),
    ]
    models = []
    for name in chosen:
        for seed in range(seeds):
            steps.append(_train(size, name, seed))
            models.append(f"{name}={{output}}/models/{name}-{seed}")
    asked = {
        "models": ",".join(models),
        "nights": "{output}/nights",
        "output": "{output}",
        "people": people,
        "draws": draws,
        "untrained": untrained,
        "title": "Sleep stages from band powers, Sleep-EDF",
    }
    if finetune:
        asked |= {"finetune": f"configs/night/finetune.py:{size},stage5", "finetuned": "hybrid"}
        asked["settings"] = json.dumps(SETTINGS[size])
    return [*steps, Step("label_efficiency", "label_efficiency", asked, "labels.md", 900)]


def _train(size, name, seed):
    file, argument = FAMILIES[name]
    folder = f"models/{name}-{seed}"
    arguments = {
        "config": f"configs/{file}:{size}{argument}",
        "workdir": f"{{output}}/{folder}",
        "config.data.path": "{output}/nights",
        "config.seed": seed,
        "config.train.steps": STEPS[size][name],
        "config.optim.warmup_steps": max(1, STEPS[size][name] // 10),
        **(TOWERS[size] if name == "contrast" else {}),
    }
    return Step(f"train {name} {seed}", "train", arguments, folder, 90)
