"""SynthSleepNet's table: sets of channels, two protocols, few labels; and what is beside them.

    python -m launch.pipeline --pipeline=configs/pipelines/synthsleepnet_table.py --output=DIR
    python -m launch.pipeline --pipeline=configs/pipelines/synthsleepnet_table.py:base \\
        --output=DIR --set data=SHHS --set builder=nsrr --set cohort=shhs --set people=50

Rows are sets of channels (``configs/synthsleepnet/pretrain.py``), each with a stage 2 of its own on
a shared stage 1; each is asked for sleep stages, apneas and hypopneas by epoch, by a probe head and
with context, with a part of the labels. Accuracy and macro F1 stand beside what they hide: the
share that always saying the most frequent class gets, prevalence, kappa, AUROC and AUPRC. Also:

- the same probes on random weights, and linear probes of hand-made features on the same nights;
- the apnea and hypopnea probes of the last row by each rule for labels of events;
- the official code's leak, once for each of these tasks: a probe trained on the people of the test.

The argument is the size of the models, ``demo`` by default. Options, several by commas: ``rows``,
``protocols``, ``tasks``, ``fractions`` of the labels (1 is all) and ``random_fractions`` of probes on
random weights; ``people`` of training whose labels are used (0: all; the official code has 50);
``seeds``, how many choices of a part of the labels and of the head's start; ``rules`` and ``leak``
(false leaves them out); ``data``, ``builder``, ``cohort``, ``nights``, ``hours`` and ``jobs`` as in
``synthsleepnet.py``.
"""  # noqa: E501

from configs.pipelines import Step
from configs.pipelines.synthsleepnet import answer, evaluate, fuse, prepare, train_encoders

# Of labels of events by epoch; "" is ours.
RULES = ("_official", "_midpoint", "_more_than_10s")
NAMES = {"c4": "C4", "c4_eog": "C4 EOG", "c4_eog_ecg": "C4 EOG ECG", "four": "four", "six": "six"}


def get_pipeline(
    size: str = "demo",
    *,
    data: str = "",
    builder: str = "folder",
    cohort: str = "",
    nights: int = 120,
    hours: float = 1.0,
    rows: str = "c4,c4_eog,c4_eog_ecg,four,six",
    protocols: str = "probe,context",
    tasks: str = "stage5,apnea_only,hypopnea_only",
    fractions: str | float = "0.01,0.05,1",
    random_fractions: str | float = "0.01,1",
    people: int = 0,
    seeds: int = 3,
    rules: bool = True,
    leak: bool = True,
    jobs: int = 2,
) -> list[Step]:
    """Return the steps; the options are those of the file's docstring.

    Raises:
        ValueError: an unknown row, or a fraction that is none.
    """
    chosen, asked = rows.split(","), tasks.split(",")
    for row in chosen:
        if row not in NAMES:
            raise ValueError(f"rows={rows}: no row {row!r}; there are {sorted(NAMES)}")
    shares, random_shares = (_shares(text) for text in (fractions, random_fractions))
    last, run = chosen[-1], Runs(size, people)
    steps = [
        *prepare(
            data,
            recipe="synthsleepnet",
            builder=builder,
            cohort=cohort,
            nights=nights,
            hours=hours,
            jobs=jobs,
        ),
        *train_encoders(size, recipe="synthsleepnet"),
    ]
    for row in chosen:
        steps += [
            fuse(f"{size},{row}", f"stage 2 {row}", f"fused/{row}", {}),
            evaluate(f"stage 2 {row}", f"fused/{row}"),
        ]
    for row in chosen:
        for protocol in protocols.split(","):
            for task in asked:
                steps += run.all(row, protocol, task, shares, seeds)
    for task in asked:
        steps += run.all(last, "probe", task, random_shares, seeds, random=True)
    for task in (task for task in asked if task.endswith("_only")):
        for rule in RULES if rules else ():
            steps += run.one(last, "probe", task + rule)
        if leak:
            # The label of that code too: its rounding, and epochs of wake count.
            steps += run.one(last, "probe", f"{task}_official", leak=True)
    title = "SynthSleepNet on own recordings" if data else f"{nights} simulated nights"
    table = {"runs": "{output}/runs,{output}/fused", "output": "{output}", "title": title}
    return [*steps, Step("tabulate", "tabulate", table, "table.md", 20)]


def _shares(text: str | float) -> list[float]:
    """Shares of the labels, of a text by commas."""
    found = [float(part) for part in str(text).split(",")]
    if not all(0 < share <= 1 for share in found):
        raise ValueError(f"fractions={text}: shares of the labels are above 0 and at most 1")
    return found


class Runs:
    """Stage 3, run by run."""

    def __init__(self, size: str, people: int):
        """Take the size of the models, and how many people's labels are used (0: all)."""
        self.size, self.people = size, people

    def all(self, row, protocol, task, shares, seeds, **more) -> list[Step]:
        """Return the runs of each share of the labels and each seed."""
        return [
            step
            for share in shares
            for seed in range(seeds)
            for step in self.one(row, protocol, task, share, seed, **more)
        ]

    def one(
        self,
        row: str,
        protocol: str,
        task: str,
        share: float = 1.0,
        seed: int = 0,
        *,
        random: bool = False,
        leak: bool = False,
    ) -> list[Step]:
        """Return the training and the test of one run.

        Args:
            row: the channels.
            protocol, task: of ``configs/synthsleepnet/finetune.py``.
            share: of the labels.
            seed: of the run and of the choice of labels.
            random: on the network as it begins.
            leak: trained on the people of the test.
        """
        changes = {"config.seed": seed, "config.data.few_shot_seed": seed}
        if self.people:
            changes["config.data.few_shot_subjects"] = self.people
        if share < 1:
            changes["config.data.few_shot"] = share
        if not random:
            changes["config.train.init_from"] = f"{{output}}/fused/{row}"
        if leak:
            changes["config.data.trained_on"] = "test"
        what = f"{row}{'-random' if random else ''}{'-LEAK' if leak else ''}"
        name = f"{what} {protocol} {task} {100 * share:g}% {seed}"
        folder = f"runs/{what}/{protocol}/{task}/{100 * share:g}-{seed}"
        argument = f"{self.size},{protocol},{task},{row}"
        return answer(argument, name, folder, changes)
