"""Recipes: found by name, told by stores and models, refused where they are not known here."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from data_pipelines import pipeline, plugins, recipes
from data_pipelines.recipes import hypnos, sleep2vec
from data_pipelines.store import NightStore
from data_pipelines.synthetic import write_tiny_modalities, write_tiny_nights

OURS = """
import dataclasses
from data_pipelines.recipes import sleep2vec

RECIPE = dataclasses.replace(sleep2vec.RECIPE, name="lab_recipes.ours", version=3)
"""


def change(folder, **facts):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return NightStore(folder)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of the user's own, on the path."""
    folder = tmp_path / "code" / "lab_recipes"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "ours.py").write_text(OURS)
    (folder / "empty.py").write_text("")
    (folder / "loud.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder.parent
    for name in [name for name in sys.modules if name.startswith("lab_recipes")]:
        del sys.modules[name]


def test_every_file_holds_a_whole_recipe():
    assert plugins.names("data_pipelines.recipes") == [
        *("arrays", "hypnos", "sleep2vec", "sleep_edfx", "sleeplm"),
        *("synthsleepnet", "synthsleepnet_epochwise"),
    ]
    for name in plugins.names("data_pipelines.recipes"):
        recipe = recipes.find_recipe(name)
        assert pickle.loads(pickle.dumps(recipe)).identity == recipe.identity
        assert recipe.identity == {"name": name, "version": recipe.version} | recipe.declared
        assert recipes.recipe_of(recipe.identity, "a store").rows == recipe.rows
        for key, row in recipe.rows.items():
            assert row.name == key and row.rate_hz > 0 and (row.made_of or recipe.declared)
            assert row.scaling in ("robust_z", "robust_iqr", "z", "rolling_z", "fixed", "code")
        for names in recipe.sets.values():
            assert recipe.wanted(",".join(reversed(names))) == names
        assert recipe.wanted() == next(iter(recipe.sets.values()))


def test_the_eight_channels_of_hypnos():
    eight = hypnos.RECIPE.wanted("hypnos")
    assert eight == (
        *("eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx"),
    )
    assert [hypnos.ROWS[name].rate_hz for name in eight] == [128] * 6 + [32] * 2
    assert [hypnos.ROWS[name].id for name in eight] == list(range(8))
    assert {row.id for name, row in hypnos.ROWS.items() if name not in eight} == {None}


def test_a_store_says_its_recipe_and_one_of_before_is_known_by_its_nights(tmp_path):
    for recipe, write in ((sleep2vec, write_tiny_modalities), (hypnos, write_tiny_nights)):
        folder = tmp_path / recipe.__name__
        write(folder, nights=2)
        store = NightStore(folder)
        assert store.recipe == recipe.RECIPE.identity
        assert recipes.recipe_of_store(store) is recipe.RECIPE
        old = change(folder, recipe=None)
        assert recipes.recipe_of_store(old) is recipe.RECIPE


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (
            {"name": "sleep2vec", "version": 2},
            "is of version 2 of the recipe sleep2vec; here is version 1: prepare the recordings"
            " anew: python -m launch.prepare_nights --recipe=sleep2vec",
        ),
        ({"name": "sleep3vec", "version": 1}, "no recipe named 'sleep3vec'.*--recipe=sleep3vec"),
        ({"name": "lab_recipes.loud", "version": 1}, "HYPNOS_JAX_PLUGINS to 'lab_recipes'"),
    ],
)
def test_a_store_of_another_recipe_is_refused_with_the_command(tmp_path, lab, identity, message):
    write_tiny_modalities(tmp_path / "store", nights=2)
    change(tmp_path / "store", recipe=identity)
    with pytest.raises(ValueError, match=message):
        pipeline.load("modality_nights", path=tmp_path / "store", split="train", seed=0)
    with pytest.raises(recipes.RecipeError, match=message):
        recipes.recipe_of_model({"modalities": [], "recipe": identity})


def test_a_recipe_from_elsewhere_needs_the_users_word(lab, monkeypatch):
    with pytest.raises(recipes.RecipeError, match="its code is not run unless you allow it"):
        recipes.find_recipe("lab_recipes.ours")
    for words in ("lab_recipes", "other, lab_recipes.ours"):
        monkeypatch.setenv("HYPNOS_JAX_PLUGINS", words)
        assert recipes.find_recipe("lab_recipes.ours").version == 3
    with pytest.raises(recipes.RecipeError, match="its code is not run"):
        recipes.find_recipe("lab_recipes.oursother")  # a prefix is of whole names
    monkeypatch.setenv("HYPNOS_JAX_PLUGINS", "lab_recipes")
    with pytest.raises(recipes.RecipeError, match="there is no module 'lab_recipes.missing'"):
        recipes.find_recipe("lab_recipes.missing")
    with pytest.raises(recipes.RecipeError, match="holds no RECIPE of the name"):
        recipes.find_recipe("lab_recipes.empty")


def test_a_source_from_elsewhere_too(lab):
    with pytest.raises(pipeline.PipelineError, match="the source 'lab_recipes.loud' is a module"):
        pipeline.find_source("lab_recipes.loud")
    code = "from data_pipelines import pipeline, plugins; plugins.allow(['lab_recipes'])\n"
    code += "pipeline.find_source('lab_recipes.loud')"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(lab), *filter(None, sys.path)])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert "was run" in found.stderr
