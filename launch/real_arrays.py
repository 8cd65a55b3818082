"""Write a real data set as a folder of arrays: ``python -m launch.real_arrays --set=NAME``.

``NAME`` is a script of ``benchmarks/real``, such as ``sleep_edf_bandpower``; ``--data`` holds the data
set's folder, ``--test`` that of people who are only judged. ``--output`` is then prepared by
``prepare_nights --builder=arrays``. Run it where the repository is. Exit codes: 0 done, 1 an error.
"""  # noqa: E501

import pathlib
import runpy
import sys

from absl import app, flags, logging

NAME = flags.DEFINE_string("set", None, "a script of benchmarks/real, without .py")
DATA = flags.DEFINE_string("data", None, "holds the data set's folder")
TEST = flags.DEFINE_string("test", "", "holds that of people who are only judged")
OUTPUT = flags.DEFINE_string("output", None, "the folder of arrays")
FOLDS = flags.DEFINE_integer("folds", 0, "without --test: one fold of so many is judged; 0: five")
FOLD = flags.DEFINE_integer("fold", 0, "which of them")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    folder = pathlib.Path(__file__).parent.parent / "benchmarks/real"
    names = sorted(path.stem for path in folder.glob("*.py") if "__main__" in path.read_text())
    if NAME.value not in names:
        logging.error("--set=%s: there is no such script; there are %s", NAME.value, names)
        return 1
    given = {"data": DATA.value, "test": TEST.value, "output": OUTPUT.value}
    given |= {"folds": FOLDS.value, "fold": FOLD.value}
    sys.argv = [f"{NAME.value}.py", *(f"--{key}={value}" for key, value in given.items())]
    runpy.run_module(f"benchmarks.real.{NAME.value}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["set", "data", "output"])
    sys.exit(app.run(main))
