"""Examples of use without this package: the lines of docs/embedding.md and of each model's card."""

from __future__ import annotations

START = """\
import functools, json, pathlib, sys
import numpy as np
from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path("EXPORT")
sys.path.append(str(folder / "flatbuffers.zip"))  # jax.export wants it, but JAX does not install it
config = json.loads((folder / "config.json").read_text())


@functools.cache
def load(folder, name):  # a program of an export: a function of named arrays
    row = json.loads((folder / "config.json").read_text())["programs"][name]
    program = export.deserialize(bytearray((folder / row["file"]).read_bytes()))
    tensors = load_file(folder / "model.safetensors")
    return lambda **inputs: program.call(tensors, inputs)


"""

TOKENS = (
    START
    + """\
seconds, signals = 600, {}  # name -> preprocessed signal of any subset of the channels; here noise
for row in config["channels"]:
    signals[row["name"]] = np.random.randn(1, seconds * row["rate_hz"]).astype(np.float32)
codes, present = [], np.zeros((1, len(config["modalities"])), bool)
for i, row in enumerate(config["modalities"]):
    codes.append(np.zeros((1, seconds, row["levels"]), np.int32))
    if row["name"] in signals:
        present[:, i] = True
    if row["name"] in signals and row["group"] in config["tokenizers"]:
        encode = load(folder / "tokenizers" / row["group"], "encode")
        made = np.asarray(encode(signal=signals[row["name"]])["codes"])
        codes[i][..., : made.shape[2]] = made  # timing levels, if any, come after: 0 is unknown
rows = load(folder, "embed")(codes=np.concatenate(codes, axis=2), present=present)["rows"]
mean = np.asarray(rows)[0][:, present[0]].mean(axis=1)  # [seconds, D] of [seconds, modalities, D]
epochs = mean[: seconds // 30 * 30].reshape(-1, 30, mean.shape[1]).mean(axis=1)
"""
)

SIGNALS = (
    START
    + """\
rate_hz, seconds = config["objective"]["rate_hz"], 600
signal = np.random.randn(1, seconds * rate_hz).astype(np.float32)  # preprocessed; here noise
codes = np.asarray(load(folder, "encode")(signal=signal)["codes"])  # [1, seconds, levels]
"""
)

WINDOWS = (
    START
    + """\
tokens, inputs = 60, {}  # any number of tokens, prepared as they were for training; here noise
for name, row in config["programs"]["embed"]["inputs"].items():
    shape = [{"B": 1, "T": tokens}.get(size, size) for size in row["shape"]]
    inputs[name] = np.random.randn(*shape).astype(np.float32)
    if row["dtype"] == "bool":  # which tokens of which modality hold signal
        inputs[name] = np.ones(shape, bool)
out = load(folder, "embed")(**inputs)
rows, valid = np.asarray(out["rows"])[0], np.asarray(out["valid"])[0, ..., None]
mean = (rows * valid).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)  # [tokens, D]
"""
)

TEXTS = """\

words, context = config["text"]["words"], config["text"]["context"]
numbers = {word.lower(): number for number, word in enumerate(words)}
START, END, UNKNOWN = 1, 2, 3


def ids(text):  # words, single digits and punctuation
    tokens = re.findall(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*|\\S", text)
    row = [START, *(numbers.get(token.lower(), UNKNOWN) for token in tokens), END]
    return np.array([row + [0] * (context - len(row))], np.int32)


text = load(folder, "embed_text")(ids=ids("The sleeper is in REM sleep."))["rows"]
cosines = mean @ np.asarray(text)[0]  # how well each token fits the text
"""

CAPTIONS = """\
epoch = {name: x[:, 0] for name, x in inputs.items()}  # the first token
about = np.array([4], np.int32)  # 0 brain, 1 heart, 2 breathing, 3 position and muscle, 4 stage
out = load(folder, "caption_start")(**epoch, condition=about, ids=np.array([START], np.int32))
caption = []
while len(caption) < context - 2:
    word = 2 + int(np.asarray(out.pop("scores"))[0, 2:].argmax())  # neither padding nor start
    if word == END:
        break
    caption.append(word)
    step = {"ids": np.array([word], np.int32), "place": np.int32(len(caption))}
    out = load(folder, "caption_step")(**step, **out)
caption = " ".join(words[word] for word in caption)  # a guess
"""


def text(config: dict, folder: str = "EXPORT") -> str:
    """Return the example for an export.

    Args:
        config: its ``config.json``.
        folder: where it lies.
    """
    programs = config["programs"]
    if "encode" in programs:
        lines = SIGNALS
    else:
        lines = TOKENS if "codes" in programs["embed"]["inputs"] else WINDOWS
    if "embed_text" in programs and "words" in config["text"]:
        lines = lines.replace("pathlib, sys", "pathlib, re, sys") + TEXTS
        lines += CAPTIONS if "caption_step" in programs else ""
    return lines.replace('"EXPORT"', repr(folder).replace("'", '"'))
