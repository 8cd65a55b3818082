"""Write a store of modalities as sleep2vec's NPZ files: ``python -m launch.export_npz --help``.

A file a night and ``index.csv``, as ``launch.prepare_nights --builder=sleep2vec_npz`` reads them.
"""

import sys

import tqdm
from absl import app, flags

NIGHTS = flags.DEFINE_string("nights", None, "Store of modalities.")
OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    from data_pipelines.builders.npz_export import export_npz
    from data_pipelines.store import NightStore

    try:
        store = NightStore(NIGHTS.value)
        with tqdm.tqdm(total=len(store.nights), desc="nights", unit="night") as bar:
            index = export_npz(store, OUTPUT.value, finished=lambda name: bar.update())
    except (ValueError, OSError) as error:
        print(f"export_npz: {error}", file=sys.stderr)
        return 1
    print(f"{index}: {len(store.nights)} nights")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["nights", "output"])
    sys.exit(app.run(main))
