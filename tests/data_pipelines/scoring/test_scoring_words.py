"""Words of many vendors and languages, and what becomes of those that nobody knows."""

import contextlib
import csv
import string

import edf_files
import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.scoring import (
    ScoringError,
    find_scoring,
    read_scoring,
)
from data_pipelines.scoring.formats.edf_annotations import scoring_from_annotations
from data_pipelines.scoring.scorers import letters_of
from data_pipelines.scoring.words import unknown_words, vocabulary

TABLES = {path.name: path for path in sorted(vocabulary.WORDS.glob("*.csv"))}
CHANGES = (0, 60, 120, 180, 240, 300, 330)  # s; the stages there, by the index of their word:
ORDER = (0, 1, 2, 3, 4, 0, 2)
STAGES = "WW112233RRW2"
ENGLISH = "Sleep stage W|Sleep stage N1|Sleep stage N2|Sleep stage N3|Sleep stage R"


def changes(words):
    """Marks at the changes of stage, without durations."""
    return [(at, None, words[index]) for at, index in zip(CHANGES, ORDER)]


def epochs(words=None):
    words = words or ENGLISH.split("|")
    return [(30 * e, 30, words["W123R".index(letter)]) for e, letter in enumerate(STAGES)]


def edf_plus(path, rows):
    notes = [
        (f"{onset:g}", None if long is None else f"{long:g}", text) for onset, long, text in rows
    ]
    block = edf_files.onset(0, *notes)
    size = len(block) + len(block) % 2 + 2
    signals = [edf_files.annotations([block], size=size)]
    return edf_files.write(path, signals, record_s="360", reserved="EDF+C")


def read(rows):
    return scoring_from_annotations("night.edf", rows, source="edf_annotations")


def told(found, kind):
    return {finding.what: finding.count for finding in found.findings if finding.kind == kind}


# --- the tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_tables_hold_each_word_once_with_its_source(name):
    with TABLES[name].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    keys = ("book", "entry") if name == "code_books.csv" else tuple(rows[0])[:1]
    whole = [tuple(row[key] for key in keys) for row in rows]
    if name in ("stages.csv", "events.csv", "tokens.csv", "roots.csv"):
        whole = [vocabulary.normalise(row[keys[0]]) for row in rows]
        whole = [key or "?" for key in whole]
    twice = {key for key in whole if whole.count(key) > 1}
    assert not twice
    assert all(row.get("source", "known") for row in rows)


def test_words_read_as_their_rows_say():
    stages = vocabulary._STAGE_CODES
    with TABLES["stages.csv"].open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert vocabulary.stage_of(row["word"]) == stages[row["stage"]], row
    with TABLES["events.csv"].open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kind = None if row["kind"] == "none" else (row["kind"], row["value"])
            assert vocabulary.event_of(row["word"]) == kind, row
            assert vocabulary.stage_of(row["word"]) is None, row
            assert vocabulary.is_known(row["word"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Stade 2,N3,fr,somewhere", "row 3: contradicts"),
        ("STAGE-2,N1,en,somewhere", "row 3: contradicts"),
        ("Stade 9,N9,fr,somewhere", "row 3: stage 'N9'"),
        ("Stade 4,N3,fr,", "row 3: word and source"),
        (",N3,fr,somewhere", "row 3: word and source"),
        ("Stade 4,N3,fr", "row 3: 3 fields"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, row, message):
    path = tmp_path / "stages.csv"
    path.write_text(f"word,stage,language,source\nStage 2,N2,en,NSRR\n{row}\n")
    with pytest.raises(ValueError, match=rf"stages\.csv, {message}"):
        vocabulary.load_stages(path)
    path.write_text("word,stage\n")
    with pytest.raises(ValueError, match="columns"):
        vocabulary.load_stages(path)


def test_events_books_tokens_and_roots_that_contradict_themselves_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("word,kind,value,language,source\nApnee,apnea,,fr,x\n")
    with pytest.raises(ValueError, match="row 2: kind 'apnea'"):
        vocabulary.load_events(path)
    path.write_text("token,means,language,source\nstade,stage,fr,x\nStade,sleep,fr,x\n")
    with pytest.raises(ValueError, match="row 3: contradicts"):
        vocabulary.load_tokens(path)
    path.write_text("root,like,source\napne,breath,x\n")
    with pytest.raises(ValueError, match="row 2: 'breath'"):
        unknown_words.load_roots(path)
    path.write_text("book,entry,stage\naasm5,0,W\naasm5,0,R\n")
    with pytest.raises(ValueError, match="row 3: contradicts"):
        vocabulary.load_code_books(entries=path)


# --- stages ---------------------------------------------------------------------------------------

LANGUAGES = {
    "Philips": "Wake|NonREM1|NonREM2|NonREM3|REM",
    "Philips, R&K": "Wake|NonREM1|NonREM2|NonREM4|REM",
    "capitals": "WAKE|NONREM1|NONREM2|NONREM3|REM",
    "STAGES": "Wake|Stage1|Stage2|Stage3|REM",
    "NSRR": "Wake|0;Stage 1 sleep|1;Stage 2 sleep|2;Stage 4 sleep|4;REM sleep|5",
    "RemLogic": "SLEEP-S0|SLEEP-S1|SLEEP-S2|SLEEP-S4|SLEEP-REM",
    "Noxturnal": "sleep-wake|sleep-n1|sleep-n2|sleep-n3|sleep-rem",
    "Luna": "SW|SN1|SN2|SN3|SR",
    "both names": "Wake (W)|N1 (NREM 1)|N2 (NREM 2)|N3 (NREM 3)|REM (R)",
    "Alice": "WK|N1|N2|N3|REM",
    "Roman": "Stage W|Stage I|Stage II|Stage IV|Stage REM",
    "French": "Éveil|Stade 1|Stade 2|Stade 3|Sommeil paradoxal",
    "French, Deltamed": "Veille|Stade 1|Stade 2|Stade 4|S. Paradoxal",
    "French, read as Latin-1": "Ã‰veil|Stade N1|Stade N2|Stade N3|Stade REM",
    "German, Domino": "Wach|N1|N2|N3|Rem",
    "German": "Wachzustand|Schlafstadium 1|Stadium II|Schlafstadium N3|REM-Schlaf",
    "Spanish": "Vigilia|Fase 1|Estadio N2|Etapa 3|Sueño REM",
    "Spanish, old": "Despierto|Fase I|Fase II|Fase IV|Sueño paradójico",
    "Italian": "Veglia|Stadio 1|Stadio N2|Sonno profondo|Sonno REM",
    "Dutch": "Wakker|Slaapstadium 1|Slaapstadium N2|Diepe slaap|REM-slaap",
    "Portuguese": "Vigília|Estágio N1|Estágio 2|Sono de ondas lentas|Sono REM",
    "Swedish": "Vaken|Sömnstadium 1|Sömnstadium N2|Djupsömn|REM-sömn",
    "Danish": "Vågen|Søvnstadie 1|Søvnstadie N2|Dyb søvn|REM-søvn",
    "Norwegian": "Våken|Søvnstadium 1|Søvnstadium N2|Dyp søvn|REM-søvn",
    "Finnish": "Valve|Unen vaihe 1|Univaihe N2|Syvä uni|REM-uni",
    "Polish": "Czuwanie|Stadium 1|Stadium N2|Sen głęboki|Sen REM",
    "Turkish": "Uyanık|Evre 1|Uyku evresi N2|Derin uyku|REM uykusu",
    "Russian": "Бодрствование|Стадия 1|Стадия 2|Стадия 3|REM-сон",
    "Chinese": "清醒期|N1期|N2期|N3期|快速眼动期",
    "Japanese": "覚醒|ステージ1|ステージ2|ステージ3|レム睡眠",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_changes_of_stage_in_the_words_of_vendors_and_languages(tmp_path, language):
    text = LANGUAGES[language]
    words = text.split(";") if ";" in text else text.split("|")
    path = edf_plus(tmp_path / "a.edf", changes(words))
    found = read_scoring(path)
    assert letters_of(found.stages) == STAGES
    assert found.findings == ()
    assert not found.events_scored
    # Another reader of EDF+ gives the same words at the same times.
    other = mne.read_annotations(path)
    assert [(a["onset"], a["description"]) for a in other] == [(t, w) for t, _, w in changes(words)]


@pytest.mark.parametrize(
    "text",
    [
        "2",
        "II",
        "2 s",
        "30 s",
        "3s",
        "REM 1",
        "RERA",
        "A",
        "C3",
        "Sommeil lent léger",
        "no",
        "Phase",
    ]
    + ["Rapid eye movements", "Sleep talking", "Stage 2 artefact", "Awake since 3", ""],
)
def test_what_only_resembles_a_stage_is_none(text):
    assert vocabulary.stage_of(text) is None


INVENTED = ["Xq", "Sleep stage X", "Stade 9", "Blorp 2", "N7", "Ξύπνιος", "각성", "Bdxx bzz", "3"]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_an_invented_word_unscores_its_own_time_and_no_other(data):
    words = ENGLISH.split("|")
    style = data.draw(st.sampled_from(["changes", "epochs", "marks", "tokens"]))
    rows = changes(words) if style == "changes" else epochs(words)
    if style == "marks":
        rows = [(at, None, text) for at, _, text in rows]
    if style == "tokens":
        rows = [(at, 1, text) for at, _, text in rows]
    replaced = data.draw(st.sets(st.integers(0, len(rows) - 1), max_size=len(rows) - 3))
    invented = data.draw(st.lists(st.sampled_from(INVENTED), min_size=1, max_size=2))
    ends = [row[0] for row in rows[1:]] + [360]
    wanted = list(STAGES)
    for place in replaced:
        at, long, _ = rows[place]
        rows[place] = (at, long, invented[place % len(invented)])
        for epoch in range(at // 30, ends[place] // 30):
            wanted[epoch] = "-"
    found = read(rows)
    # Marks may end with the last known one.
    assert letters_of(found.stages).ljust(12, "-") == "".join(wanted)
    assert sum(told(found, "unknown_stage").values()) == len(replaced)
    assert not found.events


@pytest.mark.parametrize(
    ("note", "lost"),
    [
        ((75.3, None, "Patient to bathroom"), False),  # off the grid of the marks
        ((90, None, "Patient got up and went to the bathroom"), False),  # a sentence
        ((120, None, "Somebody"), False),  # a stage begins at the same time
        ((90, None, "Lights off"), False),
        ((90, None, "Ronflement"), False),  # known, though it is no stage
        ((90, None, "Apnée obstr."), False),  # an event, though not known
        ((75, None, "asleep"), False),
        ((90, None, "Bathroom"), True),  # it might be a stage's name: better lost than wrong
        ((75, None, "Stage X"), True),
        ((90, None, "Artefakt"), True),  # Domino has it among the stages
        ((90, None, "A"), True),
        ((75, None, "Artefakt"), False),
    ],
)
def test_a_note_among_marks_ends_a_stage_only_where_it_may_be_one(note, lost):
    found = read([*changes(ENGLISH.split("|")), note])
    assert letters_of(found.stages) == ("WW1-2233RRW2" if lost else STAGES)
    # An artefact is known to be no stage.
    assert bool(told(found, "unknown_stage")) == (lost and note[2] != "Artefakt")


def test_a_note_that_also_stands_off_the_grid_is_no_stage():
    notes = [(90, None, "Bathroom"), (200.5, None, "Bathroom")]
    assert letters_of(read([*changes(ENGLISH.split("|")), *notes]).stages) == STAGES


def test_stages_of_which_no_word_is_known_are_told(tmp_path):
    path = edf_plus(tmp_path / "a.edf", changes(["Stage A", "Stage B", "Stage C", "Stage D", "E"]))
    assert find_scoring(path) == path
    found = read_scoring(path)
    assert len(found.stages) == 0
    assert told(found, "unknown_stage") == {"Stage A": 2, "Stage B": 1, "Stage C": 2, "Stage D": 1}
    assert not found.events_scored


def test_bare_numbers_need_a_code_book(tmp_path):
    rows = epochs(["0", "1", "2", "3", "5"])
    with pytest.raises(ScoringError, match="no sleep stage.*code book"):
        read(rows)
    found = read([*rows[:4], (120, 30, "Sleep stage N2"), *rows[5:]])
    assert letters_of(found.stages) == "----2"
    assert told(found, "unknown_stage") == {"0": 3, "1": 2, "2": 2, "3": 2, "5": 2}
    path = edf_plus(tmp_path / "a.edf", rows)
    assert letters_of(read_scoring(path, code_book="rk5").stages) == STAGES


# --- durations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [0, 0.1, 1, 5, 14])
@pytest.mark.parametrize("rows", [changes(ENGLISH.split("|")), epochs()], ids=["changes", "epochs"])
def test_token_durations_are_marks(duration, rows):
    found = read([(at, duration, text) for at, _, text in rows])
    assert letters_of(found.stages) == STAGES
    assert bool(told(found, "stage_marks")) == (duration > 0)


def test_a_hole_between_marks_of_every_epoch_stays_a_hole():
    rows = [(at, 1, text) for at, _, text in epochs()]
    found = read(rows[:4] + rows[7:])
    assert letters_of(found.stages) == "WW11---3RRW2"


def test_real_durations_stay_as_they_are():
    # 5-s steps; 20-s epochs of R&K; some epochs of a night.
    steps = [(5 * step, 5, f"N{1 + step // 6}") for step in range(18)]
    assert letters_of(read(steps).stages) == "123"
    twenty = [(20 * step, 20, text) for step, (_, _, text) in enumerate(epochs())]
    assert not read(twenty).findings
    some = epochs()[::3]
    assert letters_of(read(some).stages) == "W--1--3--R"
    assert not read(some).findings


def test_durations_too_short_for_any_epoch_are_told(tmp_path):
    text = "class\tinstance\tchannel\tstart\tstop\tmeta\n" + "".join(
        f"N2\t.\t.\t{at}\t{at + 10}\t.\n" for at in range(0, 600, 30)
    )
    path = tmp_path / "a.annot"
    path.write_text(text)
    found = read_scoring(path)
    assert (found.stages < 0).all()
    assert told(found, "stage_marks")


# --- events ---------------------------------------------------------------------------------------

EVENTS = {
    "apnea_obstructive": "ObstructiveApnea|OBSTRUCTIVE APNOEA|apnea:obstructive|Apnea, Obstructive|"
    "APNEA-OBSTRUCTIVE|resp_obstructiveapnea|Obstruktive Apnoe|Apnée obstructive|A. Obstructive|"
    "Apnea obstructiva|Apnea ostruttiva|Obstructieve apneu|Apneia obstrutiva|Obstruktiv apné|"
    "Obstruktiv apnø|Bezdech obturacyjny|Obstrüktif apne|Обструктивное апноэ|阻塞性呼吸暂停|"
    "Obstr. Apnoe|Obstructive Apnea@@Flow|apnea-obstructive",
    "apnea_central": "CentralApnea|Zentrale Apnoe|Apnée centrale|Apnea central|Centrale apneu|"
    "Apneia central|Santral apne|中枢性呼吸暂停|apnea-central|resp_centralapnea",
    "apnea_mixed": "MixedApnea|Gemischte Apnoe|Apnée mixte|Apnea mixta|Apnea mista|Gemengde apneu|"
    "混合性呼吸暂停",
    "hypopnea": "Hypopnea|HYPOPNOEA|ObstructiveHypopnea|CentralHypopnea|Hypopnoe|Hypopnée|Hipopnea|"
    "Ipopnea|Hypopneu|Hipopneia|Hypopné|Hipopne|Гипопноэ|低通气|HYPOPNEA-CENTRAL",
    "apnea_hypopnea": "Apnea|Apnée|Apnoe",
    "desaturation": "RelativeDesaturation|AbsoluteDesaturation|SpO2 Desaturation|DESAT|"
    "Désaturation|Entsättigung|Desaturación|Desaturazione|Desaturatie|Dessaturação|oxygensaturation-drop|"
    "SpO2Desaturation|Chute de la saturation",
    "arousal": "Arousal|Micro-éveil|Mikroarousal|Microdespertar|Microrisveglio|Arousal (EEG)|"
    "Arousal (ASDA)|Respiratorisches Arousal (Autonom)|PLM Arousal|AROUSAL-SPONT|"
    "Arousal d'origine respiratoire|Schnarchen Arousal",
    "leg_movement": "LegMovement|LM|PLM (Left)|Limb Movement (Right)|Beinbewegung|"
    "Mouvement de jambe|Movimiento de pierna|Movimento degli arti|Beenbeweging|PLM droit|"
    "PeriodicLimbMovement|limbmovement|PLM-LM",
    "rera": "RERA|Resp RERA",
    "lights_off": "Lights off|LIGHTS-OFF|LightsOff|Licht aus|Luces apagadas|Luci spente|"
    "Luz apagada|LUMIERE ETEINTE|Licht uit|Lights off@@EEG F4-A1",
    "lights_on": "Lights On|Licht an|Luces encendidas|Luci accese|Licht aan|Lumière allumée",
    "position": "Supine|Rückenlage|Dos|Decúbito supino|Position - Left|Latéral Gauche|Rugligging",
}


@pytest.mark.parametrize("kind", EVENTS)
def test_events_in_the_words_of_vendors_and_languages(tmp_path, kind):
    words = EVENTS[kind].split("|")
    rows = [(40 * n, 12, word) for n, word in enumerate(words, 1)]
    found = read_scoring(edf_plus(tmp_path / "a.edf", [*epochs(), *rows]))
    assert [(event.kind, event.onset_s) for event in found.events] == [
        (kind, onset) for onset, _, _ in rows
    ]
    assert letters_of(found.stages) == STAGES
    assert not told(found, "unknown_event")
    # Lights and positions do not say that anybody looked for events.
    assert found.events_scored == (kind not in ("lights_off", "lights_on", "position"))


@pytest.mark.parametrize(
    "word",
    [
        "Apn. obstr.",
        "Schlafapnoe",
        "Atemaussetzer",
        "Respiratory Event",
        "Flow Reduction",
        "呼吸异常",
    ]
    + ["Obstruktion", "ApneaOther", "Хрр", "Unclassified event"],
)
def test_a_night_of_events_that_are_not_understood_is_not_free_of_them(word):
    found = read([*epochs(), (300, 5, "Arousal"), (65, 12, word)])
    assert found.events_scored == ("arousal",)
    assert sum(told(found, "unknown_event").values()) == 1
    nothing_else = read([*epochs(), (65, 12, word)])
    assert nothing_else.events_scored is False


def test_what_is_understood_stays_scored():
    rows = [*epochs(), (300, 5, "Arousal"), (65, 12, "Central Apnea")]
    assert read(rows).events_scored is True
    for word in ("Snore", "Bradycardia", "SpO2 artifact", "PttDrop", "LongRR", "K-Komplex"):
        found = read([*rows, (100, 8, word)])
        assert found.events_scored is True
        assert not found.findings
    # A technician's note about apneas is not an event.
    assert read([*rows, (100.5, None, "severe apneas while supine")]).events_scored is True
    # Leg movements that are not understood say nothing about breathing.
    found = read([*rows, (100, 2, "Beinzucken")])
    assert found.events_scored == ("apnea", "arousal")


def test_xml_and_luna_tell_unknown_words_too(tmp_path):
    def event(kind, concept, start, duration):
        return (
            f"<ScoredEvent><EventType>{kind}|{kind}</EventType><EventConcept>{concept}</EventConcept>"
            f"<Start>{start}</Start><Duration>{duration}</Duration></ScoredEvent>"
        )

    rows = [event("Stages", "Stage 2 sleep|2", 0, 60), event("Stages", "Stage 7 sleep|7", 60, 30)]
    rows += [
        event("Respiratory", "Flow stop|x", 10, 12),
        event("Arousals", "Arousal|Arousal", 30, 3),
    ]
    path = tmp_path / "a-nsrr.xml"
    path.write_text(f"<PSGAnnotation><ScoredEvents>{''.join(rows)}</ScoredEvents></PSGAnnotation>")
    found = read_scoring(path)
    assert letters_of(found.stages) == "22-"
    assert told(found, "unknown_stage") == {"Stage 7 sleep": 1}
    assert sum(told(found, "unknown_event").values()) == 1
    assert found.events_scored == ("arousal",)
    path.write_text(f"<PSGAnnotation><ScoredEvents>{rows[0]}</ScoredEvents></PSGAnnotation>")
    assert read_scoring(path).events_scored is True  # NSRR's files are of people who looked

    path = tmp_path / "a.annot"
    path.write_text("N2\t.\t.\t0\t60\t.\nN7\t.\t.\t60\t90\t.\nflow_apneic_thing\t.\t.\t5\t15\t.\n")
    found = read_scoring(path)
    assert letters_of(found.stages) == "22-"
    assert told(found, "unknown_stage") == {"N7": 1}
    assert told(found, "unknown_event") and not found.events_scored


# --- nobody is named ------------------------------------------------------------------------------


@given(
    st.lists(
        st.text(string.ascii_letters + "äéøß", min_size=2, max_size=9), min_size=1, max_size=4
    ),
    st.sampled_from(["Sleep stage {}", "Apnea {}", "{} arousal", "{}", "Stage {} REM"]),
    st.integers(10, 99_999),
)
@settings(max_examples=100, deadline=None)
def test_what_is_told_of_a_word_holds_none_but_known_tokens(names, frame, number):
    text = frame.format(" ".join([*names, str(number)]))
    found = read([*epochs(), (100, 12, text)])
    known = vocabulary.TOKENS | set(unknown_words.load_roots())
    for finding in found.findings:
        for token in vocabulary.tokens_of(finding.what.replace("…", " ")):
            assert token in known or len(token) == 1 or unknown_words._CODE.fullmatch(token)
    for name in names:
        tokens = vocabulary.tokens_of(name)
        if len(name) > 2 and not set(tokens) & known:
            assert all(name not in note for note in found.notes)


def test_words_are_shown_by_their_roots():
    shown = {
        "Sleep stage X": "Sleep stage X",
        "Apnoe (Hr. Meier)": "Apnoe …",
        "Dr. Remy Legrand": "…",
        "Mr Wachsmann called": "…",
        "Anna Leger": "…",
        "Leger, Anna: apnea": "… apnea",
        "Sommeil léger": "Sommeil léger",
        "Stage 2 12.03.1970": "Stage 2 …",
        "N5": "N5",
    }
    assert {text: unknown_words.printable(text) for text in shown} == shown
    likes = {"Stade 5": "stage", "Light sleep": "stage", "Schlafapnoe": "event", "Bathroom": None}
    assert {text: unknown_words.looks_like(text) for text in likes} == likes


TIMES = st.sampled_from([0, 30, 60, 90, 120, 0.1, 45, 1e5, -30, 1e300, float("nan"), float("inf")])


@given(
    st.lists(
        st.tuples(
            TIMES,
            st.none() | TIMES,
            st.sampled_from([*ENGLISH.split("|"), *INVENTED, "Apnea", "x", "N2@@Anna", "Rater 2 W"])
            | st.text(max_size=20),
        ),
        max_size=12,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_annotations_give_a_scoring_or_the_typed_error(rows):
    with contextlib.suppress(ScoringError):
        found = read(rows)
        assert all(len(row) == len(found.stages) for row in found.scorers)
        assert all(np.isfinite(finding.seconds or 0) for finding in found.findings)


def test_many_texts_are_read_quickly():
    rng = np.random.default_rng(0)
    rows = [(5.0 * n, 5.0, f"N{1 + n % 3}") for n in range(2_000)]
    rows += [(5.0 * n + 1, 3.0, f"note {rng.integers(999)}") for n in range(2_000)]
    assert len(read(rows).stages) == 334
