"""The page of a scored night: complete, small, harmless, and alive in a browser."""

import datetime
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.recordings.edf_writer import EdfSignal, write_edf
from data_pipelines.recordings.memory import ArrayRecording
from data_pipelines.scoring import Event, Scoring
from hypnos_jax.reports.scored_night_page import write_page
from hypnos_jax.scored.night import Reason, ScoredNight, Trust
from hypnos_jax.scored.summary import summarise

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202e</style>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def scored_night(hours=8, name="night", note="all is well"):
    """A night with an answer of every kind, every 5 s."""
    rng = np.random.default_rng(0)
    epochs = int(hours * 120)
    fine = rng.dirichlet(np.ones(5), epochs * 6).astype(np.float32)
    stages = rng.integers(0, 5, epochs).astype(np.int8)
    stages[3] = -1
    events = tuple(
        Event(kind, float(at), 15.0)
        for at in range(0, epochs * 30, 150)
        for kind in ("apnea_hypopnea", "arousal")
    )
    return ScoredNight(
        recording=name,
        duration_s=hours * 3600.0,
        stages=stages,
        stage_probabilities=fine[::6],
        uncertain=rng.random(epochs) < 0.2,
        events=events,
        event_probabilities={"apnea": fine[:, 0], "arousal": fine[:, 1]},
        cell_s={"stage5": 5.0, "apnea": 5.0, "arousal": 5.0},
        fine_stages=fine,
        trust=Trust.of([Reason("unlike_signal", note, 10, 40)]),
        summary=summarise(stages, events, None, events_scored=("apnea", "arousal")),
        model="0" * 64,
        start_of_day_s=82_000.0,
        findings=(note,),
    )


def recording_of(hours, label="C4-M1"):
    rng = np.random.default_rng(1)
    seconds = int(hours * 3600)
    beats = (np.mod(np.arange(seconds * 128), 110) < 4) * 1000.0
    return ArrayRecording(
        {
            label: (20 * rng.standard_normal(seconds * 100), 100),
            "ECG": (beats + 10 * rng.standard_normal(len(beats)), 128),
            "SpO2": (np.clip(95 + rng.standard_normal(seconds), 60, 100), 1),
        }
    )


def data_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "night.html"
    night = scored_night()
    scored = Scoring(np.roll(night.stages, 1), list(night.events[:9]), "a person")
    epochs = np.random.default_rng(2).normal(size=(len(night.stages), 16))
    write_page(path, night, recording=recording_of(8), scored=scored, epochs=epochs)
    return path


def test_eight_hours_are_a_small_page_that_asks_for_nothing(page):
    html = page.read_text()
    assert page.stat().st_size < 3_000_000
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", html)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy
    names = [panel["name"] for panel in data_of(html)["panels"]]
    assert names == [
        "stages, model",
        "stages, scorer",
        "probability of stages",
        "spectrum, eeg_c4",
        "events",
        "scorer's events",
        "SpO2, %",
        "heart rate, 1/min",
    ]
    heart = data_of(html)["panels"][-1]["rows"]
    assert np.median([x for x in heart if x]) == pytest.approx(60 * 128 / 110, abs=1)
    assert len(data_of(html)["map"]) == 960
    assert "AASM recommended (1A)" in html and "Cohen's kappa" in html.replace("&#39;", "'")


def test_strangers_words_stay_words(tmp_path):
    path = tmp_path / "night.html"
    write_page(
        path, scored_night(0.1, HOSTILE, HOSTILE * 500), recording=recording_of(0.1, HOSTILE)
    )
    html = path.read_text()
    assert "<script>alert" not in html and "<img src=x" not in html
    assert html.count("</script>") == 2 and html.count("</style>") == 1
    assert "&lt;script&gt;alert(1)" in html


def test_a_page_that_would_be_too_large_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"night.html: the page would have .* 3 MB are allowed"):
        write_page(tmp_path / "night.html", scored_night(0.1, "x", "long " * 700_000))
    assert not (tmp_path / "night.html").exists()


@pytest.mark.parametrize(
    "flags, what",
    [
        ([], "give one of --job"),
        (["--job=a", "--scored=b"], "give one of --job"),
        (["--scored=b"], "--scored needs --recording=FILE and --output"),
        (["--scored=.", "--recording=x.edf", "--output=y.html"], "score the recording first"),
    ],
)
def test_the_command_says_what_it_needs(tmp_path, flags, what):
    command = [sys.executable, "-m", "launch.report", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode != 0 and what in result.stdout + result.stderr


def report(**flags):
    command = [sys.executable, "-m", "launch.report", *(f"--{k}={v}" for k, v in flags.items())]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_the_answers_of_another_recording_are_not_drawn(tmp_path):
    recording, output = tmp_path / "night1.edf", tmp_path / "night.html"
    signal = EdfSignal("C4-M1", "uV", 100, np.zeros(6000), -100.0, 100.0)
    write_edf(recording, [signal], datetime.datetime(2020, 1, 1))
    for person in "ab":
        (tmp_path / "scored" / person).mkdir(parents=True)
        scored_night(0.1).save(tmp_path / "scored" / person / "night1_scored.npz")
    code, said = report(scored=tmp_path / "scored", recording=recording, output=output)
    assert code == 1 and "has 2 nights named night1 (a/night1_scored.npz, b/" in said
    code, said = report(scored=tmp_path / "scored" / "a", recording=recording, output=output)
    assert code == 1 and "is of 360 s" in said and "of 60 s" in said
    assert not output.exists()


def in_a_browser(address, profile):
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
        *(f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom"),
    ]
    result = subprocess.run([CHROMIUM, *flags, address], capture_output=True, text=True)
    assert "CONSOLE" not in result.stderr, result.stderr  # a refused script or request is told
    return result.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_draws_zooms_and_finds_nothing_wrong(page, tmp_path):
    def seen(address):
        drawn = in_a_browser(address, tmp_path / "profile")
        return re.findall(r'data-from="([\d.]+)" data-to="([\d.]+)"', drawn)

    assert seen(page.as_uri()) == [("0", "28800")] * 8
    assert seen(f"{page.as_uri()}#600-1200") == [("600", "1200")] * 8


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_whole_night_shows_every_desaturation(tmp_path):
    saturation = np.full(8 * 3600, 96.0)
    begins = range(100, 28_000, 137)
    for first in begins:
        saturation[first : first + 16] = 82
    recording = ArrayRecording({"SpO2": (saturation, 1)})
    write_page(tmp_path / "night.html", scored_night(), recording=recording)
    drawn = in_a_browser((tmp_path / "night.html").as_uri(), tmp_path / "profile")
    svg = re.search(r'aria-label="SpO2.*?</svg>', drawn, re.DOTALL)[0]
    path = re.search(r'<path d="([^"]+)" class="line"', svg)[1]
    x, y = np.array([point.split() for point in re.split("[ML]", path)[1:]], float).T
    low, per_s = x[y > y.min() + 40], (1160 - 130 - 12) / (8 * 3600)
    missed = [s for s in begins if np.abs(low - (130 + per_s * (s + 8))).min() > 1.5]
    assert not missed and len(low) < 2.5 * len(begins)  # neither are there lows without a dip
