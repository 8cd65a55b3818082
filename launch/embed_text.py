"""Embed texts: ``python -m launch.embed_text --model=PATH --texts=FILE --output=FILE.npz``.

``--texts`` is a UTF-8 file with a text in each line; ``--text="..."``, as often as wanted, gives
them here. The output has ``rows`` float32 [N, D] of length 1, ``texts``, and ``model`` (its
checksum): the product of a row with one of ``launch.embed`` of the same model says how well they
fit. A text with words that no caption has is refused, with the nearest that are known.

Exit codes: 0 done; 1 where a text or the model cannot be used.
"""

import pathlib
import sys

from absl import app, flags

MODEL = flags.DEFINE_string("model", None, "Folder of a run or an export that knows texts.")
TEXTS = flags.DEFINE_string("texts", None, "File with a text in each line.")
TEXT = flags.DEFINE_multi_string("text", [], "A text; may be given several times.")
OUTPUT = flags.DEFINE_string("output", None, "The .npz file to write.")
MOST_BYTES = 100_000_000  # of the file of texts


def read_texts(path: pathlib.Path) -> list[str]:
    """Return the lines of a file that hold anything."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes; give it in parts")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    return [line for line in lines if line.strip()]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if bool(TEXTS.value) == bool(TEXT.value):
        raise app.UsageError("give --texts=FILE, or --text one or more times")
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.text_embedder import embed_texts  # after the flags: imports start jax
    from hypnos_jax.runtime import compile_cache

    checkpoint.quiet()
    compile_cache.keep()

    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        texts = TEXT.value or read_texts(pathlib.Path(TEXTS.value))
        if not texts:
            raise ValueError(f"{TEXTS.value} has no text")
        found = embed_texts(MODEL.value, texts)
        found.save(OUTPUT.value)
    except (ValueError, OSError) as error:
        print(f"embed_text: {error}", file=sys.stderr)
        return 1
    print(f"{OUTPUT.value}: {len(found.texts)} texts embedded, {found.rows.shape[1]} values each")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    sys.exit(app.run(main))
