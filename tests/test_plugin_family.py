"""A family of another kind is one recipe, one source, one model, one objective and one config.

It lies in ``plugin_family/lab``, outside of the packages, and no file of theirs knows it. All that
the program does for its own families it does for this one, by the commands that users have.
"""

import json
import os
import re
import shutil
import sys
import types

import jax
import numpy as np
import psutil
import pytest
from plain_jax import run_alone
from processes import ROOT, TESTS, Group

from data_pipelines import pipeline, plugins, recipes
from data_pipelines.sources import modality_nights
from data_pipelines.store import NightStore
from hypnos_jax import batch as batches
from hypnos_jax import checkpoint, metrics
from hypnos_jax import config as configs
from hypnos_jax import plugins as classes
from hypnos_jax.export import usage
from hypnos_jax.export.model import checksum, load_model
from hypnos_jax.inference.estimator import SleepEmbedder
from hypnos_jax.inference.window_embedder import WindowEmbedder
from hypnos_jax.runtime import distributed, seals

FAMILY = TESTS / "plugin_family"
PACKAGES = ("hypnos_jax", "data_pipelines", "launch", "configs")
ALLOWED = {"HYPNOS_JAX_PLUGINS": "lab", "PYTHONPATH": f"{ROOT}{os.pathsep}{FAMILY}"}
STEPS = 60
TRAIN = ("launch.train", f"--config={FAMILY}/lab/config.py:tiny")
TOWERS = ("launch.train", "--config=configs/sleep2vec/pretrain.py:test")
# People by whom all splits hold something.
SUBJECTS = {"s001": "s101", "s002": "s102", "s003": "s001", "s004": "s003", "s005": "s004"}


def start(folder, *commands, **environment):
    """Start commands beside each other, each with a log below the folder."""
    number = len(list(folder.glob("logs_*")))
    commands = [[sys.executable, "-m", *map(str, command)] for command in commands]
    environments = [{"JAX_NUM_CPU_DEVICES": "1", **ALLOWED, **environment}] * len(commands)
    return Group(commands, folder / f"logs_{number}", environments)


def run(folder, *commands, codes=(0,), **environment):
    """Run commands beside each other to their ends; return what each said."""
    with start(folder, *commands, **environment) as group:
        group.wait(500, codes)
        return [log.read_text() for log in group.logs]


@pytest.fixture(autouse=True, scope="module")
def lab():
    """The family is known to this process too."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(FAMILY))
        monkeypatch.setenv("HYPNOS_JAX_PLUGINS", "lab")
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with simulated recordings, and with them prepared for two families."""
    folder = tmp_path_factory.mktemp("family")
    own = {name: folder / name for name in ("recordings", "lab_store", "towers_store")}
    told = ("--nights=8", "--seed=3", "--hours=0.1")
    run(folder, ("launch.synthesize", f"--output={own['recordings']}", *told))
    rows = [f"{p.stem},{SUBJECTS[p.stem[-7:-3]]}" for p in own["recordings"].glob("*-n?.edf")]
    (folder / "subjects.csv").write_text("\n".join(["recording,subject", *rows]))
    command = ("launch.prepare_nights", f"--input={own['recordings']}")
    command = (*command, f"--subjects={folder / 'subjects.csv'}")
    towers = ("--recipe=sleep2vec", "--channels=eeg,eog")
    run(
        folder,
        (*command, f"--output={own['lab_store']}", "--recipe=lab.recipe"),
        (*command, f"--output={own['towers_store']}", *towers),
    )
    return types.SimpleNamespace(folder=folder, **own)


def supervised(place, name):
    """The command of a training on two processes."""
    given = (f"--workdir={place.folder / name}", f"--config.data.path={place.lab_store}")
    given = (*given, f"--config.train.steps={STEPS}")
    flags = ("--processes=2", "--backoff_s=0.1", "--")
    return ("launch.supervise", *flags, sys.executable, "-m", *TRAIN, *given)


@pytest.fixture(scope="module")
def workdir(place):
    """A run of two processes that nothing disturbed."""
    run(place.folder, supervised(place, "run"))
    return place.folder / "run"


@pytest.fixture(scope="module")
def models(place, workdir):
    """The run probed and exported, and towers that were trained for a step."""
    found = types.SimpleNamespace(
        export=place.folder / "lab_export", towers=place.folder / "towers"
    )
    towers = (f"--workdir={found.towers}", f"--config.data.path={place.towers_store}")
    run(
        place.folder,
        ("launch.evaluate", f"--workdir={workdir}"),
        ("launch.export", f"--workdir={workdir}", f"--output={found.export}"),
        (*TOWERS, *towers, "--config.train.steps=1"),
    )
    return found


def test_the_family_is_small_and_no_shared_file_knows_it():
    lines = [line for p in (FAMILY / "lab").glob("*.py") for line in p.read_text().splitlines()]
    assert 0 < sum(bool(line.strip()) for line in lines) < 250
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"\blab\b\.", path.read_text()), path


def test_recordings_are_prepared_by_its_recipe(place):
    store = NightStore(place.lab_store)
    assert store.recipe == {"name": "lab.recipe", "version": 1}
    assert len(store.nights) == 8
    rates = {row["name"]: row["rate_hz"] for row in store.manifest["channels"]}
    assert rates == {"eeg": 32, "eog": 32, "emg": 32}
    with pytest.raises(pipeline.PipelineError, match="--recipe=lab.recipe"):
        pipeline.load("lab.token_nights", path=place.towers_store, split="train", seed=0)


@pytest.mark.slow
def test_a_batch_holds_its_tokens_as_its_contract_says(place, workdir):
    source = pipeline.load("lab.token_nights", path=place.lab_store, split="train", seed=0)
    batch = source.examples(0, 2)
    batches.check_batch(batch, 2)
    assert batch["signal/eeg"].shape == (2, 24, 5 * 32)
    config = json.loads((workdir / "config.json").read_text())
    told = pipeline.find_source("lab.token_nights").shapes(config["data"], config["objective"])
    assert told == {name: (x.dtype, *x.shape[1:]) for name, x in batch.items()}


def losses(workdir):
    """What was logged, without the times."""
    rows = metrics.read(workdir / "metrics.jsonl")
    return [{name: row[name] for name in row.keys() - metrics.TIMES} for row in rows]


@pytest.mark.slow
def test_two_processes_killed_at_once_go_on_as_the_same_run(place, workdir):
    killed = place.folder / "killed"
    with start(place.folder, supervised(place, "killed")) as group:
        log = killed / "metrics.jsonl"
        last = lambda: log.read_text().count('"loss"') if log.exists() else 0
        group.wait_for(lambda: seals.good_steps(killed) and last() > 25)
        children = psutil.Process(group.all[0].pid).children()
        assert len(children) == 2
        for child in children:
            child.kill()
        assert last() < STEPS
        group.wait(300)
        assert "again in" in group.logs[0].read_text()
    trained = [row for row in losses(killed) if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, STEPS + 1))
    assert losses(killed) == losses(workdir)
    ours, theirs = (checkpoint.restore_variables(folder)[2] for folder in (killed, workdir))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_it_is_probed_beside_the_baselines(workdir, models):
    found = json.loads((workdir / "probe.json").read_text())
    staging = found["tasks"]["staging"]
    assert set(staging["sets"]) == {"embedding", "random_backbone", "no_features"}
    assert staging["recordings"] == 8
    assert "no store of channels" in staging["not_run"]["hand_features"]
    assert "reads no tokens" in staging["not_run"]["token_latents"]
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    assert "eval/probe/staging/embedding/kappa" in results
    assert "eval/val/loss" in results


@pytest.mark.slow
def test_its_card_says_what_it_is_and_when_a_row_comes(models):
    card = (models.export / "README.md").read_text()
    assert "\nA masked autoencoder of 5-s tokens of EEG, EOG and chin.\n" in card
    assert "One row a token of 5 s: a row has seen its whole window of tokens" in card
    assert "An epoch is the mean of its 6 rows" in card
    assert "| eeg | 32 Hz | 160 |" in card
    assert "from jax import export" in card
    config = json.loads((models.export / "config.json").read_text())
    assert config["recipe"] == {"name": "lab.recipe", "version": 1}
    assert config["programs_missing"] == {}


ALONE = """
import importlib.util
ours = ("hypnos_jax", "data_pipelines", "lab", "flax")
assert not [name for name in ours if importlib.util.find_spec(name)]
out = load(folder, "embed")(**np.load("inputs.npz"))
np.savez("out.npz", **{name: np.asarray(x) for name, x in out.items()})
"""


@pytest.mark.slow
def test_its_program_is_run_by_jax_alone(place, models):
    pytest.importorskip("flatbuffers")
    store, embedder = NightStore(place.lab_store), WindowEmbedder(models.export)
    night = store.nights[0]
    ours = embedder.embed_night(store, night)
    inputs, valid = {}, []
    for name in ("eeg", "eog", "emg"):
        signal = store.channel(night, name)
        inputs[f"signal/{name}"] = signal.samples.reshape(1, -1, 5 * 32)
        valid.append(signal.valid.reshape(1, -1, 5).mean(-1) >= 0.5)
    inputs["valid"] = np.stack(valid, -1)
    alone = place.folder / "alone"
    alone.mkdir()
    np.savez(alone / "inputs.npz", **inputs)
    run_alone(alone, usage.START.replace("EXPORT", str(models.export)) + ALONE)
    found = np.load(alone / "out.npz")
    rows, there = found["rows"], found["valid"]
    assert rows.shape == (1, night.duration_s // 5, 1, embedder.width)
    assert there.any()
    np.testing.assert_allclose(rows[0, :, 0], ours.modalities["fused"], atol=2e-3)
    np.testing.assert_allclose(ours.epochs, rows[0, :, 0].reshape(-1, 6, 16).mean(1), atol=2e-3)


@pytest.mark.slow
def test_recordings_are_embedded_a_real_one_too(place, models, test_data):
    folder, output = place.folder / "two", place.folder / "embeddings"
    folder.mkdir()
    simulated = min(place.recordings.glob("*-n?.edf"))
    paths = [folder / "real.edf", folder / "simulated.edf"]
    for path, source in zip(paths, (test_data / "sleep-edf/short_psg.edf", simulated)):
        path.symlink_to(source)
    model = f"--model={models.export}"
    run(place.folder, ("launch.embed", model, f"--input={folder}", f"--output={output}"))
    for path, seconds in zip(paths, (300, 360)):
        with np.load(output / f"{path.stem}.npz") as found:
            assert found["fused"].shape == (seconds // 5, 16)
            assert found["fused"].any(axis=1).all()
            np.testing.assert_array_equal(found["times_s"], np.arange(0, seconds, 5))
            epochs = found["epochs"]
        estimator = SleepEmbedder(models.export, unit="epoch")
        np.testing.assert_array_equal(estimator.fit_transform([path]), epochs)


@pytest.mark.slow
def test_it_is_compared_with_another_family(place, models):
    output = place.folder / "comparison"
    given = (f"--models=lab={models.export},towers={models.towers}", f"--output={output}")
    given = (*given, f"--nights={place.lab_store},{place.towers_store}")
    run(place.folder, ("launch.compare", *given))
    table = (output / "comparison.md").read_text()
    for name in ("lab", "lab, untrained", "towers", "towers, untrained"):
        assert re.search(rf"^\| *{name} *\|", table, re.M), table
    read = {p.stem: json.loads(p.read_text())["store"] for p in output.glob("results/*.json")}
    assert read["lab-0"] == "lab_store"
    assert read["towers-0"] == "towers_store"


EVIL = "lab_evil.objective"


@pytest.fixture
def evil(tmp_path):
    """A folder with a package that says so when its code runs, and the environment to find it."""
    package = tmp_path / "lab_evil"
    package.mkdir()
    for name in ("__init__.py", "objective.py"):
        (package / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    path = f"{ROOT}{os.pathsep}{FAMILY}{os.pathsep}{tmp_path}"
    return types.SimpleNamespace(
        folder=tmp_path, environment={"HYPNOS_JAX_PLUGINS": "", "PYTHONPATH": path}
    )


def with_objective(source, folder, name):
    """A copy of an export as if it were of another objective, with the checksum that it needs."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    variables = jax.tree_util.tree_leaves_with_path(load_model(source).variables)
    key = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    config["objective"]["name"] = name
    tensors = {key(path): x for path, x in variables}
    config["checksum"] = checksum(config["objective"], tensors, config["tokenizers"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_what_comes_from_elsewhere_imports_nothing(place, models, evil, monkeypatch):
    export = with_objective(models.export, evil.folder / "export", EVIL)
    store = evil.folder / "store"
    shutil.copytree(place.towers_store, store)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["recipe"]["name"] = EVIL
    (store / "manifest.json").write_text(json.dumps(manifest))
    workdir, data = f"--workdir={evil.folder / 'run'}", f"--config.data.path={place.towers_store}"
    commands = {
        "an export": (
            *("launch.embed", f"--model={export}", f"--input={place.recordings}"),
            f"--output={evil.folder / 'embeddings'}",
        ),
        "a config": (*TOWERS, workdir, data, f"--config.objective.name={EVIL}"),
        "a store": (*TOWERS, workdir, f"--config.data.path={store}"),
    }
    said = run(evil.folder, *commands.values(), codes=(1,), **evil.environment)
    for what, words in zip(commands, said, strict=True):
        assert EVIL in words, (what, words)
        assert "HYPNOS_JAX_PLUGINS" in words, (what, words)
        assert "Traceback" not in words, (what, words)
    assert not (evil.folder / "imported").exists()
    # It would have been, had the user allowed it.
    monkeypatch.syspath_prepend(str(evil.folder))
    monkeypatch.setenv("HYPNOS_JAX_PLUGINS", "lab_evil")
    with pytest.raises(AttributeError):
        load_model(export)
    assert (evil.folder / "imported").exists()


NAMES = {
    EVIL: "HYPNOS_JAX_PLUGINS",
    "lab_evil.": "is not the dotted name of a module",
    "../lab_evil/objective": "is not the dotted name of a module",
    "..": "is not the dotted name of a module",
    "os": "no .* named 'os'",
    "os.path": "HYPNOS_JAX_PLUGINS",
    "": "no .* named ''",
    "__init__": "no .* named '__init__'",
    5: "no .* named 5",
}


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_is_none_is_refused(name, evil, monkeypatch):
    monkeypatch.setenv("HYPNOS_JAX_PLUGINS", "")
    monkeypatch.syspath_prepend(str(evil.folder))
    data = {"name": name, "path": ""}
    tries = {
        "objective": lambda: configs.make_objective({"objective": {"name": name}}),
        "evaluator": lambda: classes.load("evaluators", name),
        "source": lambda: pipeline.find_source(name),
        "data": lambda: batches.load_source({"data": data, "seed": 0}, evil.folder, split="train"),
        "recipe": lambda: recipes.find_recipe(name),
    }
    for kind, attempt in tries.items():
        with pytest.raises(ValueError) as error:
            attempt()
        if kind == "data" and "no .*" in NAMES[name]:
            assert f"config.data.name={name!r}: known:" in str(error.value)
        else:
            assert re.search(NAMES[name], str(error.value)), (kind, error.value)
    assert not (evil.folder / "imported").exists()


def test_processes_must_have_the_same_code_of_the_family(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "objective.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HYPNOS_JAX_PLUGINS", "theirs.objective, not_installed")
    digests = []
    for text in ("one = 1\n", "one = 2\n"):
        file.write_text(text)
        digests.append(distributed.sources())
    assert digests[0] != digests[1]
    assert "theirs" not in sys.modules


def test_a_file_of_the_project_has_a_short_name():
    for folder, name in (("objectives", "rq_next_token"), ("evaluators", "linear_probe")):
        with pytest.raises(ValueError, match=f"is named '{name}' here"):
            classes.load(folder, f"hypnos_jax.{folder}.{name}")
    with pytest.raises(ValueError, match="is named 'modality_nights' here"):
        pipeline.find_source(modality_nights.__name__)
    assert plugins.find("data_pipelines.sources", "modality_nights") is modality_nights
