"""Numbers of a night: sleep statistics, and indices that say by which rule they are."""

import json

import numpy as np
import pytest

from data_pipelines.scoring import Event
from hypnos_jax.scored.summary import sentences, sleep_statistics, summarise

# 10 min awake, 30 N1, 60 N2, 5 awake, 20 N3, 15 R, 10 awake; in epochs.
NIGHT = np.repeat([0, 1, 2, 0, 3, 4, 0], [20, 60, 120, 10, 40, 30, 20])


def ahi_of(events, spo2=None, **options):
    found = summarise(NIGHT, events, spo2, **options)
    json.dumps(found, allow_nan=False)
    return {record["rule"]: record for record in found["indices"]["ahi"]}


def test_sleep_statistics_follow_their_definitions():
    found = sleep_statistics(NIGHT)
    assert found["tib_min"] == 150 and found["tst_min"] == 125 and found["spt_min"] == 130
    assert found["waso_min"] == 5 and found["sol_min"] == 10 and found["awakenings"] == 2
    assert found["efficiency"] == pytest.approx(125 / 150)
    assert found["latency_min"] == {"N1": 10, "N2": 40, "N3": 105, "R": 125}
    assert found["rem_latency_min"] == 115
    assert found["stage_min"] == {"W": 25, "N1": 30, "N2": 60, "N3": 20, "R": 15}
    assert found["stage_share"]["N2"] == pytest.approx(60 / 125)
    lights = [Event("lights_off", 300.0, 0.0), Event("lights_on", 8700.0, 0.0)]
    in_bed = summarise(NIGHT, lights)["sleep"]
    assert in_bed["tib_min"] == 140 and in_bed["sol_min"] == 5 and in_bed["tst_min"] == 125
    awake = sleep_statistics(np.zeros(10, np.int8))
    assert awake["tst_min"] == 0 and awake["efficiency"] == 0 and awake["sol_min"] is None
    assert awake["waso_min"] is None and awake["reason"] is None
    unknown = sleep_statistics(np.full(10, -1))
    assert unknown["tst_min"] is None and unknown["reason"]


@pytest.mark.slow  # yasa takes long to import
@pytest.mark.parametrize("seed", range(5))
def test_sleep_statistics_are_those_of_yasa(seed):
    yasa = pytest.importorskip("yasa", reason="the extra yasa is not installed")
    rng = np.random.default_rng(seed)
    stages = np.repeat(rng.integers(-1, 5, 60), rng.integers(1, 30, 60))
    names = np.array([*"WN", "N2", "N3", "R", "UNS"], object)
    names[1] = "N1"
    theirs = yasa.Hypnogram(list(names[stages])).sleep_statistics()
    ours = sleep_statistics(stages)
    pairs = {
        "TIB": ours["tib_min"], "SPT": ours["spt_min"], "WASO": ours["waso_min"],
        "TST": ours["tst_min"], "SE": 100 * ours["efficiency"], "SME": 100 * ours["maintenance"],
        "SOL": ours["sol_min"], "SFI": ours["awakenings"] / (ours["tst_min"] / 60),
        "Lat_REM": ours["rem_latency_min"] + ours["sol_min"],
        "%N1": 100 * ours["stage_share"]["N1"],
        "N3": ours["stage_min"]["N3"], "WAKE": ours["stage_min"]["W"],
    }  # fmt: skip
    for name, value in pairs.items():
        assert value == pytest.approx(theirs[name], abs=1e-3), name


def test_each_rule_counts_its_own_hypopneas():
    saturation = np.full(9000, 96.0)
    saturation[2020:2050] = 93  # a fall of 3 points
    saturation[3020:3050] = 92  # of 4
    events = [
        Event("apnea_obstructive", 1000.0, 20.0),
        Event("hypopnea", 2000.0, 20.0),
        Event("hypopnea", 3000.0, 20.0),
        Event("hypopnea", 4000.0, 20.0),  # with an arousal alone
        Event("hypopnea", 5000.0, 20.0),  # with neither
        Event("hypopnea", 5500.0, 8.0),  # too short
        Event("hypopnea", 8700.0, 20.0),  # awake
        Event("arousal", 4022.0, 5.0),
    ]
    found = ahi_of(events, (saturation, 1.0))
    hours = 125 / 60
    assert {rule: record["value"] * hours for rule, record in found.items()} == {
        "aasm_3pct_or_arousal": pytest.approx(4),
        "aasm_4pct": pytest.approx(2),
        "flow_only": pytest.approx(5),
    }
    assert found["aasm_4pct"]["counts"] == {
        "apneas": 1, "hypopneas": 1, "not_counted": 3, "unjudged": 0, "too_short": 1,
    }  # fmt: skip
    assert all(record["hours"] == pytest.approx(hours) for record in found.values())
    lines = sentences(summarise(NIGHT, events, (saturation, 1.0)))
    assert any(line.startswith("AHI 1.0/h (AASM acceptable (1B)") for line in lines)
    assert any(line.startswith("arousal index 0.5/h") for line in lines)


def test_an_index_without_its_inputs_is_none_and_says_why():
    hypopneas = [Event("hypopnea", 2000.0 + 100 * i, 20.0) for i in range(4)]
    found = ahi_of(hypopneas, events_scored=("apnea",))
    assert found["flow_only"]["value"] == pytest.approx(4 / (125 / 60))
    for rule in ("aasm_3pct_or_arousal", "aasm_4pct"):
        assert found[rule]["value"] is None and "no oxygen saturation" in found[rule]["reason"]
    # Apneas count under every rule, so nothing is missing where there is nothing else.
    apneas = [Event("apnea_central", 2000.0, 20.0)]
    assert ahi_of(apneas, events_scored=("apnea",))["aasm_4pct"]["value"] == pytest.approx(0.48)
    nobody = ahi_of([], events_scored=False)
    assert {x["reason"] for x in nobody.values()} == {"nobody looked for apneas and hypopneas"}
    untold = ahi_of([Event("apnea_hypopnea", 2000.0, 30.0)], (np.full(9000, 96.0), 1.0))
    assert (
        untold["aasm_4pct"]["value"] == 0
        and "judged as hypopneas" in untold["aasm_4pct"]["notes"][0]
    )
    asleep_never = summarise(np.full(300, -1), hypopneas)
    assert all(x["value"] is None and x["reason"] for x in asleep_never["indices"]["ahi"])
    assert asleep_never["oximetry"]["reason"]
