"""Sleep-EDF is downloaded by TFDS's manager, checked against its sums, and prepared."""

import functools
import hashlib
import http.server
import threading

import numpy as np
import pytest
import tiny_recordings

from data_pipelines import store
from data_pipelines.builders import folder, night_builder, recording_night, sleep_edf
from data_pipelines.recipes.hypnos import RECIPE

LABELS = {"EEG Fpz-Cz": 20.0, "EEG Pz-Oz": 20.0, "EOG horizontal": 50.0}


class _Counting(http.server.SimpleHTTPRequestHandler):
    served = None

    def do_GET(self):
        self.served.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A site laid out as PhysioNet's: url, its folder, and the list of paths it has served."""
    root = tmp_path / "site"
    stages = np.random.default_rng(0).integers(0, 5, 4)
    for n in (0, 1):
        name = f"SC40{n}1"
        path = root / "sleep-cassette" / f"{name}E0-PSG.edf"
        tiny_recordings.write_edf(path, seconds=120, seed=n, labels=LABELS)
        tiny_recordings.write_hypnogram(path.with_name(f"{name}EC-Hypnogram.edf"), stages)
    (root / "README.txt").write_text("not wanted")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root)}\n"
        for path in sorted(root.rglob("*.*"))
    ]
    (root / "SHA256SUMS.txt").write_text("".join(lines))
    served = []
    handler = functools.partial(
        type("Handler", (_Counting,), {"served": served}), directory=str(root)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", root, served
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_then_prepare(site, tmp_path):
    url, _, served = site
    source = sleep_edf.download(tmp_path / "out", url=url)
    assert "/README.txt" not in served and len(served) == 5
    sleep_edf.download(tmp_path / "out", url=url)
    assert not [path for path in served[5:] if path.endswith(".edf")]
    items, _ = folder.find_recordings(source, cohort="sleep_edf")
    make_night = recording_night.PrepareRecording(RECIPE, ("eeg_c3", "eog_e1"), mains_hz=50)
    night_builder.write_store(
        tmp_path / "out", kind="signals", items=items, make_night=make_night, progress=False
    )
    nights = store.NightStore(tmp_path / "out").nights
    assert [night.subject for night in nights] == ["SC400", "SC401"]
    assert all(night.qc["scored_share"] == 1 for night in nights)


def test_limit_takes_the_first_with_their_hypnograms(site, tmp_path):
    url, _, _ = site
    source = sleep_edf.download(tmp_path, limit=1, url=url)
    names = sorted(path.name for path in source.glob("sleep-cassette/*.edf"))
    assert names == ["SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf"]


def test_a_damaged_download_is_refused_and_fetched_anew(site, tmp_path):
    url, root, _ = site
    path = root / "sleep-cassette" / "SC4001E0-PSG.edf"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(ValueError, match="SC4001E0-PSG.edf: the download is damaged"):
        sleep_edf.download(tmp_path, limit=1, url=url)
    path.write_bytes(whole)
    source = sleep_edf.download(tmp_path, limit=1, url=url)
    assert (source / "sleep-cassette" / path.name).read_bytes() == whole


def test_what_is_not_there_is_said_clearly(site, tmp_path):
    url, _, _ = site
    with pytest.raises(ValueError, match="cannot download http.*nowhere/SHA256SUMS.txt"):
        sleep_edf.download(tmp_path, url=f"{url}nowhere/")
