"""Write the report of a main job: ``python -m launch.report --job=DIR``.

``DIR`` holds ``nights tokenizers tokens model embeddings``, or some of them; it gets
``report.html`` and ``report.png``, and the table of the probes is printed. The times of the steps
are those of ``launch.pipeline``, where it ran in ``DIR``. Exit codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

JOB = flags.DEFINE_string("job", None, "folder of a main job")
TITLE = flags.DEFINE_string("title", "", "of the report")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    from hypnos_jax.reports.main_job import write_report
    from launch.steps import read_seconds

    folder = pathlib.Path(JOB.value)
    try:
        table = write_report(folder, title=TITLE.value, seconds=read_seconds(folder))
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    print(f"{table}\nreport: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["job"])
    sys.exit(app.run(main))
