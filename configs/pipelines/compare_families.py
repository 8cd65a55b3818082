"""Families of models at equal compute on the same simulated nights: an open table.

    python -m launch.pipeline --pipeline=configs/pipelines/compare_families.py --output=DIR
    python -m launch.pipeline --pipeline=configs/pipelines/compare_families.py --output=DIR \\
        --set labels=SCORING --set seeds=3
    python -m launch.pipeline --pipeline=configs/pipelines/compare_families.py:accelerator \\
        --output=DIR --set labels=SCORING

Hypnos, sleep2vec by both of its losses, SynthSleepNet, SleepLM, and towers without any contrast (a
masked and a denoising autoencoder) each get the same FLOPs, as the code base counts them:
tokenizers and all stages included, the second budget four times the first. Each family reads its
own recipe of the same recordings. The page shows what linear probes read out of them with 1, 10 and
100 % of the people labelled and with sensors missing, beside random weights, hand-made features and
networks that are trained with the labels at the same cost.

The argument is a size: ``demo`` (two cores), ``test``, or ``accelerator``, whose budget is a
hundred times that of ``demo``. Options: ``labels``, a folder of scoring files whose stages and
events the nights follow (without it they are simulated too); ``nights``, ``hours`` and ``seed`` of
the cohort; ``budget``, the first one, in FLOPs; ``factor`` to the second, 1 for none; ``seeds`` of
every run, and ``untrained`` of random weights; ``families`` and ``supervised`` tasks by commas;
``draws`` of labelled people; ``jobs``.
"""

import json

from configs.pipelines import Step
from configs.pipelines.demo import CHANNELS
from configs.synthsleepnet.neuronet import TYPES

# Sizes of the configs, nights, their hours, the first budget in FLOPs. Ours.
SIZES = {
    "test": ({"hypnos": "test", "towers": "test", "synth": "test", "lm": "test"}, 10, 0.2, 3e8),
    "demo": ({"hypnos": "demo", "towers": "demo", "synth": "demo", "lm": "tiny"}, 96, 1.0, 1e12),
    "accelerator": (
        {"hypnos": "tiny", "towers": "xs", "synth": "small", "lm": "small"},
        *(960, 8.0, 1e14),
    ),
}
FAMILIES = {
    "hypnos": "Hypnos",
    "dash": "sleep2vec (DASH)",
    "info_nce": "sleep2vec (InfoNCE)",
    "synthsleepnet": "SynthSleepNet",
    "sleeplm": "SleepLM (told the labels)",
    "masked": "masked autoencoder",
    "denoising": "denoising autoencoder",
}
TOWERS = {
    "dash": "sleep2vec/pretrain.py:{},dash",
    "info_nce": "sleep2vec/pretrain.py:{},info_nce",
    "masked": "sleep2vec/reconstruct.py:{},masked",
    "denoising": "sleep2vec/reconstruct.py:{},denoising",
}
FIRST_SHARE = {"hypnos": 0.3, "synthsleepnet": 0.5}  # of the budget, for the first stages together
SHARES = (0.01, 0.1, 1.0)  # of the training people, whose labels are known
RECIPES = ("hypnos", "sleep2vec", "synthsleepnet", "sleeplm")
ANSWERED = {"staging": "stage5", "apnea": "apnea"}  # question -> task of fine-tuning
NOTES = {
    "sleeplm": "SleepLM is told the stages and events of all training nights by its captions: its"
    " rows at few labels are no label-free ones.",
    "synthsleepnet": "SynthSleepNet reads six channels, none of breathing.",
    "supervised": "Networks trained with labels have a share of the windows, of all people; probes"
    " have a share of the people.",
}
SUPERVISED = "towers trained with labels"


def get_pipeline(
    size: str = "demo",
    *,
    labels: str = "",
    nights: int = 0,
    hours: float = 0.0,
    seed: int = 0,
    budget: float = 0.0,
    factor: float = 4.0,
    seeds: int = 1,
    untrained: int = 3,
    families: str = ",".join(FAMILIES),
    supervised: str = "staging,apnea",
    draws: int = 4,
    jobs: int = 2,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring.

    Raises:
        ValueError: an unknown size, family or task.
    """
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; use one of {sorted(SIZES)}")
    chosen = families.split(",")
    for family in chosen:
        if family not in FAMILIES:
            raise ValueError(f"families={families}: no {family!r}; there are {sorted(FAMILIES)}")
    sizes, own_nights, own_hours, own_budget = SIZES[size]
    first = budget or own_budget
    nights, hours = nights or own_nights, hours or own_hours
    study = Study(sizes)
    steps = prepare(nights, hours, seed, labels, jobs, study.recipes(chosen, supervised))
    for flops in dict.fromkeys((first, factor * first)):
        for number in range(seeds):
            for family in chosen:
                steps += study.train(family, flops, number)
            for task in supervised.split(",") if supervised else ():
                for share in SHARES:
                    steps += study.supervise(task, flops, share, number)
    arguments = {
        "models": json.dumps(study.entries),
        "nights": "{output}/nights/hypnos",
        "output": "{output}",
        "shares": ",".join(f"{share:g}" for share in SHARES),
        "draws": draws,
        "untrained": untrained,
        "note": tuple(
            NOTES[name] for name in NOTES if name in (*chosen, supervised and "supervised")
        ),
        "title": f"{nights} simulated nights of {hours:g} h, families at equal compute",
    }
    return [*steps, Step("compare", "compare_families", arguments, "comparison.html", 300)]


def prepare(
    nights: int, hours: float, seed: int, labels: str, jobs: int, recipes: list[str]
) -> list[Step]:
    """Return the steps that simulate recordings and prepare them by every recipe."""
    cohort = {"output": "{output}/recordings", "nights": nights, "seed": seed, "hours": hours}
    cohort |= {"labels": labels} if labels else {}
    steps = [Step("synthesize", "synthesize", {**cohort, "jobs": jobs}, "recordings", 150)]
    for recipe in recipes:
        store = {
            "input": "{output}/recordings",
            "output": f"{{output}}/nights/{recipe}",
            "recipe": recipe,
            "jobs": jobs,
        }
        if recipe == "sleeplm":  # without the cohort, nobody would know what its positions mean
            store |= {"cohort": "synthetic", "channels": "twelve"}
        steps.append(Step(f"prepare {recipe}", "prepare_nights", store, f"nights/{recipe}", 60))
    if "sleeplm" in recipes:
        facts = {"nights": "{output}/nights/sleeplm", "jobs": jobs}
        steps.append(Step("facts", "caption_nights", facts, "nights/sleeplm/facts", 60))
    return steps


class Study:
    """Steps of the families, and what the table is to be told of them.

    Attributes:
        entries: one of each trained model; see ``family_study.Entry``.
    """

    def __init__(self, sizes: dict[str, str]):
        """Take the size of each family's configs."""
        self.sizes, self.entries = sizes, []

    def recipes(self, families: list[str], supervised: str) -> list[str]:
        """Return the recipes that the families need; hand-made features need that of Hypnos."""
        wanted = {"hypnos", *("synthsleepnet" for f in families if f == "synthsleepnet")}
        wanted |= {"sleeplm"} & set(families)
        wanted |= {"sleep2vec"} if supervised or set(families) & set(TOWERS) else set()
        return [recipe for recipe in RECIPES if recipe in wanted]

    def train(self, family: str, flops: float, seed: int) -> list[Step]:
        """Return a family's training by one budget and seed."""
        where = f"c{flops:.2g}/{family}-{seed}"
        if family in TOWERS:
            config = TOWERS[family].format(self.sizes["towers"])
            return self._one(family, config, where, flops, seed, "sleep2vec")
        if family == "sleeplm":
            config = f"sleeplm/pretrain.py:{self.sizes['lm']},twelve"
            return self._one(family, config, where, flops, seed, "sleeplm")
        first = flops * FIRST_SHARE[family]
        make = {"hypnos": self._hypnos, "synthsleepnet": self._synthsleepnet}[family]
        return make(where, first, flops - first, flops, seed)

    def _one(self, family, config, where, flops, seed, recipe) -> list[Step]:
        """A family of one stage."""
        steps = run(where, config, where, flops, seed, f"{{output}}/nights/{recipe}")
        self._add(family, flops, seed, where, f"nights/{recipe}")
        return steps

    def _hypnos(self, where, first, rest, flops, seed) -> list[Step]:
        """Tokenizers of five types of signal, tokens, and the RQ-Transformer."""
        steps, stages = [], []
        for kind, names in CHANNELS.items():
            folder = f"{where}/tokenizers/{kind}"
            config = f"hypnos/rvq_tokenizer.py:{self.sizes['hypnos']},{kind}"
            own = run(folder, config, folder, first / len(CHANNELS), seed, "{output}/nights/hypnos")
            steps += [step._replace(needs=("nights/hypnos", names)) for step in own]
            stages.append(folder)
        tokens = {
            "nights": "{output}/nights/hypnos",
            "tokenizers": f"{{output}}/{where}/tokenizers",
            "output": f"{{output}}/{where}/tokens",
        }
        steps.append(Step(f"{where} tokens", "tokenize_nights", tokens, f"{where}/tokens", 40))
        config = f"hypnos/rq_transformer.py:{self.sizes['hypnos']}"
        model = f"{where}/model"
        steps += run(where, config, model, rest, seed, f"{{output}}/{where}/tokens")
        self._add("hypnos", flops, seed, model, f"{where}/tokens", stages)
        return steps

    def _synthsleepnet(self, where, first, rest, flops, seed) -> list[Step]:
        """Encoders of four types of channel, and their fusion."""
        size, nights, steps, begin = self.sizes["synth"], "{output}/nights/synthsleepnet", [], []
        stages = []
        for kind in TYPES:
            folder = f"{where}/encoders/{kind}"
            config = f"synthsleepnet/neuronet.py:{size},{kind}"
            steps += run(folder, config, folder, first / len(TYPES), seed, nights)
            stages.append(folder)
            subtrees = [["network/encoder", f"network/encoder_{kind}"]]
            begin.append({"source": f"{{output}}/{folder}", "subtrees": subtrees})
        more = {"config.train.init_from": json.dumps(begin)}
        model = f"{where}/model"
        config = f"synthsleepnet/pretrain.py:{size}"
        steps += run(where, config, model, rest, seed, nights, more)
        self._add("synthsleepnet", flops, seed, model, "nights/synthsleepnet", stages)
        return steps

    def supervise(self, task: str, flops: float, share: float, seed: int) -> list[Step]:
        """Return the training of towers from scratch with a share of the people's labels."""
        where = f"c{flops:.2g}/supervised/{task}-{100 * share:g}-{seed}"
        if task not in ANSWERED:
            raise ValueError(f"supervised={task}: it is one of {sorted(ANSWERED)}")
        config = f"sleep2vec/finetune.py:{self.sizes['towers']},{ANSWERED[task]}"
        more = {
            "config.optim.freeze": "()",  # nothing was trained before
            "config.data.few_shot_seed": seed,
        }
        if share < 1:
            more["config.data.few_shot"] = share
        steps = run(where, config, where, flops, seed, "{output}/nights/sleep2vec", more)
        changes = ("evals.test.subsets=[]", "evals.test.holes=[]")
        arguments = {"workdir": f"{{output}}/{where}", "best": True, "set": changes}
        steps.append(Step(f"{where} test", "evaluate", arguments, f"{where}/evaluation.json", 30))
        self._add("", flops, seed, where, "nights/sleep2vec", (), task, share)
        return steps

    def _add(self, family, flops, seed, folder, nights, stages=(), task="", share=1.0) -> None:
        entry = {
            "name": FAMILIES.get(family, SUPERVISED),
            "budget": flops,
            "seed": seed,
            "path": f"{{output}}/{folder}",
            "nights": f"{{output}}/{nights}",
            "stages": [f"{{output}}/{stage}" for stage in stages],
        }
        self.entries.append(entry | ({"task": task, "share": share} if task else {}))


def run(
    name: str,
    config: str,
    folder: str,
    flops: float,
    seed: int,
    nights: str,
    more: dict | None = None,
) -> list[Step]:
    """Return the training of a run by a budget.

    Args:
        name: of the step.
        config: below ``configs``, with its argument.
        folder: of the run, relative to the pipeline's.
        flops: the budget.
        seed: of the run.
        nights: the store.
        more: flags of ``launch.train``.
    """
    arguments = {
        "config": f"configs/{config}",
        "workdir": f"{{output}}/{folder}",
        "flops": f"{flops:g}",
        "config.data.path": nights,
        "config.seed": seed,
        **(more or {}),
    }
    return [Step(name, "train", arguments, folder, 40)]
