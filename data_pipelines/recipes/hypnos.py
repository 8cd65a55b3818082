"""The channels of Hypnos (arXiv 2606.09605): rates, rows of the channel embedding, causal paths.

The eight channels of the paper come first; every further canonical channel can be prepared the same
way. :mod:`data_pipelines.signals.causal` does it. PPG's band is in the release; airflow, snore,
oximetry, heart rate and position are ours.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import threading

from data_pipelines.channels.table import CHANNELS
from data_pipelines.recipes import Recipe, Row
from data_pipelines.recordings.base import RecordingError
from data_pipelines.recordings.opening import read_channel
from data_pipelines.signals.causal import CausalPath, UnusableSignal, preprocess_channel

TOKEN_S = 1
VERSION = 1
CHANNELS_AT_ONCE = 2  # ours: each takes some 0.1 GB for 8 h at 256 Hz

# In the order of the rows of the channel embedding.
EIGHT = ("eeg_c3", "eeg_c4", "eog_e1", "eog_e2", "emg_chin", "ecg", "resp_abd", "resp_thx")

PATHS = {
    "eeg": CausalPath(0.5, 45.0, notch=True, flat_s=5),
    "emg": CausalPath(0.5, 45.0, notch=True, flat_s=5),
    "ecg": CausalPath(0.05, 45.0, notch=True, flat_s=5),
    "respiratory": CausalPath(0.05, None, flat_s=60),
    "ppg": CausalPath(0.1, 30.0, flat_s=5),
    # Ours from here on. Snore sensors are microphones, piezos or envelopes: all but drift is kept.
    "snore": CausalPath(0.5, None, flat_s=60),
    "spo2": CausalPath(level=True, centre=95.0, scale=5.0, bounds=(40.0, 100.5)),
    "heart_rate": CausalPath(level=True, centre=65.0, scale=15.0, bounds=(20.0, 250.0)),
    "position": CausalPath(level=True, step=True, bounds=(-1e4, 1e4)),
}
_WAVE_HZ, _BELT_HZ, _NUMBER_HZ = 128, 32, 1
# Signal type -> rate, and the release's name of the path; None: ours, by the channel's name.
_TYPES = {
    **dict.fromkeys(("eeg", "eog"), (_WAVE_HZ, "eeg")),
    **dict.fromkeys(("resp", "flow"), (_BELT_HZ, "respiratory")),
    **{kind: (_WAVE_HZ, kind) for kind in ("emg", "ecg", "ppg")},
    "snore": (_WAVE_HZ, None),
    "number": (_NUMBER_HZ, None),
}


@dataclasses.dataclass(frozen=True)
class CausalRow(Row):
    """A channel as Hypnos reads it.

    Attributes:
        signal_type: Of the canonical channel; those of one type share a tokenizer.
        preprocess: The release's name of the path, or None for a path of ours.
    """

    signal_type: str = ""
    preprocess: str | None = None

    @property
    def path(self) -> CausalPath:
        """How it is preprocessed."""
        return PATHS[self.made]


def _row(channel):
    rate_hz, preprocess = _TYPES[channel.signal_type]
    path = PATHS[preprocess or channel.name]
    return CausalRow(
        channel.name,
        rate_hz,
        made_of=(channel.name,),
        made=preprocess or channel.name,
        band_hz=(path.high_pass_hz, path.low_pass_hz),
        scaling="fixed" if path.level else "rolling_z",
        unit=channel.unit,
        id=EIGHT.index(channel.name) if channel.name in EIGHT else None,
        signal_type=channel.signal_type,
        preprocess=preprocess,
    )


ROWS: dict[str, CausalRow] = {name: _row(channel) for name, channel in CHANNELS.items()}


def make_channels(rows, recording, quality, mains_hz):
    """Make the channels of a recording: the ``make`` of a :class:`Recipe`."""
    lock = threading.Lock()
    # A worker process has its share of the cores: one. Elsewhere channels go side by side.
    alone = multiprocessing.parent_process() is None
    with concurrent.futures.ThreadPoolExecutor(CHANNELS_AT_ONCE if alone else 1) as pool:
        futures = {
            row.name: pool.submit(_make, row, recording, quality.channels[row.name], mains_hz, lock)
            for row in rows
            if row.name in quality.channels
        }
    signals, found, refused = {}, {}, {}
    for name, future in futures.items():
        try:
            signals[name], found[name] = future.result()
        except (RecordingError, UnusableSignal) as error:
            refused[name] = str(error)
    return signals, {"channels": found}, refused


def _make(row, recording, checked, mains_hz, lock):
    """Return the prepared channel, and what the manifest says of it."""
    if checked.status == "refused":
        raise RecordingError("; ".join(checked.notes))
    with lock:  # the libraries behind some recordings expect one reader
        signal, sfreq = read_channel(recording, checked.binding)
    made = preprocess_channel(signal, sfreq, row, mains_hz=mains_hz)
    # The other shares are of samples of the night; this one is of the whole.
    return made, checked.to_json() | {"valid_share": round(float(made.valid.mean()), 4)}


RECIPE = Recipe(
    name="hypnos",
    version=VERSION,
    token_s=TOKEN_S,
    rows=ROWS,
    sets={"hypnos": EIGHT, "all": tuple(ROWS)},
    make=make_channels,
)
