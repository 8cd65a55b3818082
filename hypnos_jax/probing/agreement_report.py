"""Agreement of nights as JSON, CSV and one page; Bland-Altman statistics come from YASA."""

from __future__ import annotations

import csv
import io
import logging
import pathlib
import warnings
from collections.abc import Sequence

from data_pipelines.files import atomic_write
from hypnos_jax.probing import scorer_agreement
from hypnos_jax.probing.scorer_agreement import AHI_RULE, CONSENSUS, MODEL, OTHERS, JudgedNight
from hypnos_jax.reports import page
from hypnos_jax.reports.agreement_figure import draw_agreement
from hypnos_jax.runtime.files import write_json

STATISTICS = {"TST": "min", "SE": "%", "WASO": "min", "SOL": "min", "Lat_REM": "min"}
AHI = f"AHI ({AHI_RULE})"
FEWEST_NIGHTS = 5
COLUMNS = (
    "kappa",
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "f1_W",
    "f1_N1",
    "f1_N2",
    "f1_N3",
    "f1_R",
)
_YASA = ("WAKE", "N1", "N2", "N3", "REM", "UNS")  # the last one is -1
TITLES = {
    "pairs": "Each against each",
    "subgroups": "Subgroups",
    "differences": "Differences of a night's numbers (Bland-Altman)",
    "confidence": "How sure, and how often right",
}


def bland_altman(nights: Sequence[JudgedNight], who: str, truth: str) -> dict:
    """Return the differences of two in a night's numbers, and their agreement by epoch, by YASA.

    Returns:
        ``rows`` of ``statistic unit nights truth said bias low high loa_low loa_high`` (means,
        the bias with its interval of 95 %, limits of agreement) and ``values`` (statistic -> pairs
        of truth and said); ``epochs``, YASA's means over nights. ``reason`` where there are none.
    """
    own = [x for x in nights if who in x.stages and (x.of(truth, who)[0] >= 0).any()]
    if len(own) < FEWEST_NIGHTS:
        reason = f"{len(own)} nights; limits of agreement need {FEWEST_NIGHTS} or more"
        return {"rows": [], "values": {}, "reason": reason}
    try:
        import yasa
    except ImportError:
        return {"rows": [], "values": {}, "reason": "YASA is not installed: pip install -e .[yasa]"}

    def hypnograms(name, stages_of):
        return {
            x.recording: yasa.Hypnogram([_YASA[i] for i in stages_of(x)], scorer=name) for x in own
        }

    logging.getLogger("yasa").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own tables, and of statistics that do not vary
        epochs = yasa.EpochByEpochAgreement(
            hypnograms("truth", lambda x: x.of(truth, who)[0]),
            hypnograms("said", lambda x: x.stages[who]),
        )
        table = epochs.get_sleep_stats()[[*STATISTICS]]
        true, said = (table.loc[name].copy() for name in ("truth", "said"))
        for frame, name in ((true, CONSENSUS), (said, who)):
            frame[AHI] = [x.ahi.get(name) for x in own]
        rows, values = [], {}
        for name in (*STATISTICS, AHI):
            pair = [x[name].astype(float) for x in (true, said)]
            both = pair[0].notna() & pair[1].notna()
            pair = [x[both] for x in pair]
            if both.sum() < FEWEST_NIGHTS or (pair[1] - pair[0]).std() == 0:
                continue
            found = yasa.SleepStatsAgreement(pair[0].to_frame(), pair[1].to_frame())
            x = found.summary(ci_method="param").loc[name]
            bias = x["bias_mean"]
            rows.append(
                {
                    "statistic": name,
                    "unit": STATISTICS.get(name, "1/h"),
                    "nights": int(both.sum()),
                    "truth": float(pair[0].mean()),
                    "said": float(pair[1].mean()),
                    "bias": float(bias["center"]),
                    "low": float(bias["lower"]),
                    "high": float(bias["upper"]),
                    "loa_low": float(x["loa_lower"]["center"]),
                    "loa_high": float(x["loa_upper"]["center"]),
                }
            )
            values[name] = [pair[0].tolist(), pair[1].tolist()]
        means = epochs.get_agreement().mean(numeric_only=True)
    return {"rows": rows, "values": values, "epochs": means.to_dict(), "reason": None}


def report(
    nights: Sequence[JudgedNight],
    folder: pathlib.Path,
    *,
    says: Sequence[str] = (),
    left: Sequence[str] = (),
) -> dict:
    """Write ``agreement.json``, ``.csv``, ``.png`` and ``.html``; return what the JSON holds.

    Args:
        nights: what was judged.
        folder: is made.
        says: sentences about what was judged.
        left: what was not read, and why.

    Raises:
        ValueError: no night was scored by two.
    """
    asked = scorer_agreement.pairs_of(nights)
    pairs = {pair: scorer_agreement.agreement_of(nights, *pair) for pair in asked}
    pairs = {pair: found for pair, found in pairs.items() if found}
    if not pairs:
        raise ValueError("no night was scored by two, of one name: there is nothing to compare")
    judged = [pair for pair in pairs if pair[1] == CONSENSUS]
    judged = judged or [pair for pair in pairs if pair[1] == OTHERS] or [next(iter(pairs))]
    result = {
        "nights": len(nights),
        "people": len({night.subject for night in nights}),
        "says": [*says],
        "left_out": [*left],
        "pairs": [{"who": who, "truth": truth, **found} for (who, truth), found in pairs.items()],
        "subgroups": [
            {"who": who, "truth": truth, **row}
            for who, truth in judged
            for row in scorer_agreement.subgroups(nights, who, truth)
        ],
        "differences": [
            {"who": who, "truth": truth, **bland_altman(nights, who, truth)}
            for who, truth in judged
        ],
        "confidence": scorer_agreement.confidence(nights),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "agreement.json", result)
    tables = tables_of(result)
    text = io.StringIO()
    csv.writer(text).writerows(row for rows in tables.values() for row in [*rows, []])
    with atomic_write(folder / "agreement.csv", "w") as file:
        file.write(text.getvalue())
    draw_agreement(result, folder / "agreement.png")
    html = page.render(
        "families.html",
        title="Agreement of scored nights",
        says=[*_told(result), *says, *left],
        pictures=[("Differences and confidence", folder / "agreement.png")],
        tables=tables,
    )
    with atomic_write(folder / "agreement.html", "w") as file:
        file.write(html)
    return result


def _told(result) -> list[str]:
    reasons = {x["reason"] for x in result["differences"] if x["reason"]}
    return [
        f"{result['nights']} nights of {result['people']} people. Epochs that one of a pair left"
        " unscored are left out of that pair; intervals (95 %) are over people drawn with"
        " replacement, none under five people.",
        f"A scorer is compared with the consensus of the others, the {MODEL} with that of all.",
        *sorted(f"No differences of numbers: {reason}." for reason in reasons),
    ]


def tables_of(result: dict) -> dict[str, list[list]]:
    """Return the tables of the page and of the CSV: title -> rows, the header first."""

    def metrics(found):
        return [_with_interval(found["metrics"][name]) for name in COLUMNS]

    head = ["nights", "people", "epochs", *COLUMNS]
    tables = {
        TITLES["pairs"]: [
            ["who", "against", *head, "kappa, mean of nights", "weighted F1 by share, of nights"],
            *(
                [x["who"], x["truth"], x["nights"], x["people"], x["epochs"], *metrics(x)]
                + [x["by_night"]["kappa"], x["by_night"]["weighted_f1_by_share"]]
                for x in result["pairs"]
            ),
        ]
    }
    if result["subgroups"]:
        tables[TITLES["subgroups"]] = [
            ["who", "against", "by", "group", *head],
            *(
                [x["who"], x["truth"], x["by"], x["group"], x["nights"], x["people"], x["epochs"]]
                + metrics(x)
                for x in result["subgroups"]
            ),
        ]
    rows = [
        [x["who"], x["truth"], f"{row['statistic']}, {row['unit']}", row["nights"], row["truth"]]
        + [row["said"], _with_interval(row | {"value": row["bias"]}, 1)]
        + [f"{row['loa_low']:.1f} to {row['loa_high']:.1f}"]
        for x in result["differences"]
        for row in x["rows"]
    ]
    if rows:
        head = ["who", "against", "number", "nights", "mean of the truth", "mean said"]
        tables[TITLES["differences"]] = [[*head, "bias", "limits of agreement"], *rows]
    sure = result["confidence"]
    if sure:
        tables[TITLES["confidence"]] = [
            ["", "share of epochs", "wrong among them"],
            *(["the surest", float(share), risk] for share, risk in sure["risk"].items()),
            ["not marked uncertain", sure["marked"]["coverage"], sure["marked"]["risk"]],
        ]
    return tables


def _with_interval(x: dict, digits: int = 3) -> str:
    if x["value"] is None:
        return "-"
    value = f"{x['value']:.{digits}f}"
    if x["low"] is None:
        return value
    return f"{value} ({x['low']:.{digits}f} to {x['high']:.{digits}f})"
