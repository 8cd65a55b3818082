"""The folder builder on Apache Beam's local runner gives the same store."""

import json
import pathlib

import pytest
import tiny_recordings

from data_pipelines import store
from data_pipelines.builders import folder, night_builder, recording_night
from data_pipelines.recipes.hypnos import RECIPE

pytest.importorskip("apache_beam")


def write(source, output, **kwargs):
    items, _ = folder.find_recordings(source)
    make_night = recording_night.PrepareRecording(RECIPE, ("eeg_c3", "ecg"), mains_hz=50)
    return night_builder.write_store(
        output, kind="signals", items=items, make_night=make_night, progress=False, **kwargs
    )


def contents(path):
    files = (file for file in pathlib.Path(path).rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "options", ["--runner=DirectRunner", "--direct_running_mode=in_memory,--direct_num_workers=2"]
)
def test_beam_writes_the_same_bytes(tmp_path, options):
    from data_pipelines.builders import beam

    source = tiny_recordings.write_folder(tmp_path / "in", count=4)
    (source / "broken.edf").write_bytes(b"0       no more than this")
    write(source, tmp_path / "here")
    summary = write(source, tmp_path / "beam", run_all=beam.runner(options))
    assert len(summary.added) == 4 and len(summary.rejected) == 1
    assert contents(tmp_path / "beam") == contents(tmp_path / "here")
    store.NightStore(tmp_path / "beam").verify()
    (line,) = (tmp_path / "beam" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["recording"] == "broken"
