"""Modality diversity: what another sensor adds, over growing subsets of modalities.

    python -m launch.sweep --sweep=configs/sweeps/modality_diversity.py:smoke --output=DIR \\
        --jobs=2 [--set=data.path=MODALITIES]
    python -m launch.fit_laws --sweep=DIR --metric=eval/retrieval/accuracy

``SIZE`` or ``SIZE,towers``: contrastive towers with 2 to 8 modalities. One modality has no pair,
and nothing to be contrasted with, so that there is no run with one. ``SIZE,tokens``: the
RQ-Transformer with 1 to 8.

Runs are judged by what all of them can do. Towers: whether EEG and ECG, which every subset has,
find each other (``eval/retrieval/accuracy``, among equally many windows); their own validation loss
is the mean over other pairs in every run and says nothing. Tokens: the loss of EEG
(``eval/val/loss/eeg_c3``), where every run has the same codes to predict.

Every run has the same signal of each modality: a batch of towers holds two of them, so that the
steps grow with their number; one of tokens holds them all. Else it would be asked whether another
sensor is worth the data of those that were there.

Each subset is a part of the next, in an order; ``full`` and ``cpu`` have two, with the same ends,
since what is added early gets the credit of what all would bring.
"""

from configs.grids import chain, product

TOWERS, TOKENS = "configs/sleep2vec/pretrain.py", "configs/hypnos/rq_transformer.py"
ORDERS = {
    "towers": (
        ("eeg", "ecg", "eog", "emg", "resp", "belt", "airflow", "spo2"),
        ("eeg", "ecg", "spo2", "airflow", "belt", "resp", "emg", "eog"),
    ),
    "tokens": (
        ("eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx"),
        ("eeg_c3", "ecg", "resp_thx", "emg_chin", "eog_e2", "resp_abd", "eeg_c4", "eog_e1"),
    ),
}

# Config; steps with 2 modalities (towers) or with any number (tokens); orders.
SIZES = {
    "towers": {"smoke": ("test", 8, 1), "cpu": ("demo", 120, 2), "full": ("xs", 15_000, 2)},
    "tokens": {"smoke": ("test", 16, 1), "cpu": ("demo", 400, 2), "full": ("tiny", 20_000, 2)},
}
COUNTS = {
    "towers": {"smoke": (2, 3, 5, 8), "cpu": range(2, 9), "full": range(2, 9)},
    "tokens": {"smoke": (1, 2, 4, 8), "cpu": range(1, 9), "full": range(1, 9)},
}


def get_sweep(size: str = "full") -> list[dict]:
    """Return a run for each number of modalities and order.

    Args:
        size: ``full``, ``cpu`` or ``smoke``, and ``,towers`` (the default) or ``,tokens``.

    Raises:
        ValueError: another size or family.
    """
    size, _, family = size.partition(",")
    family = family or "towers"
    if family not in ORDERS or size not in SIZES[family]:
        raise ValueError(f"no size {size!r} of {family!r}; use smoke, cpu or full, ,tokens")
    config, steps, orders = SIZES[family][size]
    shared = {
        "config": f"{TOWERS if family == 'towers' else TOKENS}:{config}",
        "budget.warmup_share": 0.05,
        "budget.checkpoints": 2 if size == "smoke" else 4,
    }
    if family == "towers":
        shared["evals.retrieval.pairs"] = (ORDERS[family][0][:2],)
    grids = []
    for number, order in enumerate(ORDERS[family][:orders], start=1):
        for count in COUNTS[family][size]:
            if number > 1 and count in (min(COUNTS[family][size]), len(order)):
                continue  # the same modalities as in the first order
            run = {
                "stem": f"m{count}-order{number}",
                "data.modalities": order[:count],
                "train.steps": steps * count // 2 if family == "towers" else steps,
            }
            grids.append(product([shared], [run]))
    return chain(*grids)
