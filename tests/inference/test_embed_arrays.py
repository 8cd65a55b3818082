"""A model of series embeds a folder of arrays as it embeds the store that was made of it."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs.night import pretrain
from data_pipelines import pipeline
from data_pipelines.builders import arrays, arrays_folder
from data_pipelines.builders.night_builder import write_store
from data_pipelines.recordings.base import RecordingError
from data_pipelines.store import NightStore
from hypnos_jax import config as configs
from hypnos_jax import state
from hypnos_jax.batch import batch_spec
from hypnos_jax.export.model import make_model
from hypnos_jax.inference.embed import embed_recording
from hypnos_jax.inference.embed_folder import embed_folder

DECLARED = '[series.powers]\nvalues = 3\nscaling = "global"\n[series.level]\nstep_s = 10\n'


def write_folder(folder, seeds, declared=DECLARED):
    folder.mkdir()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        np.savez(
            folder / f"{seed}.npz",
            powers=rng.standard_normal((7, 3)) + seed,
            level=rng.standard_normal(21),
        )
    rows = [f"{seed}.npz,{seed},train" for seed in seeds]
    (folder / "index.csv").write_text("\n".join(["file,subject,split", *rows]))
    (folder / "series.toml").write_text(declared)
    return folder


def test_a_model_of_series_takes_a_folder_of_arrays(tmp_path):
    folder = write_folder(tmp_path / "in", (0, 5))
    items, _ = arrays_folder.find_nights(folder)
    rows = tuple(arrays_folder.read_declaration(folder).recipe.rows.values())
    recipe = arrays.measured(rows, items, tmp_path / "store")
    make_night = arrays.ReadArrays(tuple(recipe.rows.values()))
    write_store(
        *(tmp_path / "store",),
        kind="signals",
        items=items,
        make_night=make_night,
        progress=False,
        recipe=recipe.identity,
    )
    store = NightStore(tmp_path / "store")
    config = configs.resolve(pretrain.get_config("test"))
    config = configs.change(config, {"data.path": str(store.path)})
    source = pipeline.find_source("modality_nights").open_source(
        store, split="train", seed=0, window_tokens=config["data"]["window_tokens"]
    )
    config = configs.fill(config, source.describe())
    init = state.init_function(configs.make_objective(config), batch_spec(source, 2))
    variables = jax.device_get(nn.unbox(state.jit_once(lambda: init(0))()))
    model = make_model(config, variables, step=0, recipe=source.describe()["recipe"])
    assert model.config["recipe"] == store.recipe

    embed_folder(model, store.path, tmp_path / "of-store", progress=False)
    # Of other nights too, the model's own constants scale what comes.
    one = write_folder(tmp_path / "one", (5,))
    embed_folder(model, one, tmp_path / "of-folder", progress=False)
    of_store, of_folder = (
        np.load(tmp_path / name / "5.npz")["epochs"].astype(np.float32)
        for name in ("of-store", "of-folder")
    )
    assert of_store.shape == (7, 16) and of_store.std() > 0.01
    np.testing.assert_allclose(of_folder, of_store, atol=2e-3)

    other = write_folder(tmp_path / "other", (5,), DECLARED.replace("values = 3", "values = 2"))
    with pytest.raises(ValueError, match="series.powers has values=2 .*the model reads values=3"):
        embed_folder(model, other, tmp_path / "no", progress=False)
    recording = {"C3-M2": (np.random.default_rng(0).standard_normal(6000), 100)}
    with pytest.raises(RecordingError, match="the recipe arrays is of series"):
        embed_recording(model, recording)
