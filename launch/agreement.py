r"""Compare scored nights with scorers, consensus and each other: ``python -m launch.agreement``.

    python -m launch.agreement --scored=SCORED --nights=STORE --output=DIR
    python -m launch.agreement --scorings=FOLDER --code_book=dod --output=DIR

``--scored`` is a folder of ``launch.score``; without it, the scorers alone are compared.
``--nights`` is a store: its test people are compared (``launch.open_test`` opens them where they
are locked), with the stages of every scorer that the recording's file has. ``--scorings`` is a
folder of scorings instead: FOLDER/<scorer>/<night>.<suffix>, or FOLDER/<night>.<suffix>.

Writes ``agreement.json``, ``agreement.csv``, ``agreement.png`` and ``agreement.html``: kappa,
accuracy and F1 by stage with intervals over people, subgroups by age, sex, AHI and site,
Bland-Altman statistics of the nights' numbers (extra yasa), calibration, risk and coverage. Exit
codes: 0 done, 1 an error.
"""

import pathlib
import sys

from absl import app, flags, logging

SCORED = flags.DEFINE_string("scored", "", "folder of scored nights; none: the scorers alone")
NIGHTS = flags.DEFINE_string("nights", "", "store of the same nights, with their scorings")
SCORINGS = flags.DEFINE_string("scorings", "", "folder of scorings, instead of a store")
CODE_BOOK = flags.DEFINE_string("code_book", None, "what plain lists of stages mean")
OUTPUT = flags.DEFINE_string("output", None, "folder for the results")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if bool(NIGHTS.value) == bool(SCORINGS.value):
        raise app.UsageError("give one of --nights and --scorings")
    from data_pipelines import held_out
    from data_pipelines.store import NightStore
    from hypnos_jax.probing import agreement_report, scorer_agreement

    logging.set_verbosity(logging.INFO)
    try:
        found = scorer_agreement.read_scored(SCORED.value) if SCORED.value else {}
        says, left = [], []
        if NIGHTS.value:
            if held_out.is_locked(NIGHTS.value):
                opened = len(held_out.openings(NIGHTS.value))
                says.append(f"the test nights are locked; they were opened {opened} times so far")
            nights = scorer_agreement.nights_of_store(NightStore(NIGHTS.value), found)
        else:
            book = CODE_BOOK.value
            nights, left = scorer_agreement.nights_of_folder(SCORINGS.value, found, book)
        judged = {night.recording for night in nights}
        if missing := len([name for name in found if name not in judged]):
            people = ", or are not of its test people, who alone judge a model" * bool(NIGHTS.value)
            says.append(f"{missing} of {len(found)} scored nights have no scoring here{people}")
        refused = sum(x.trust.verdict == "refused" for x in found.values())
        if refused:
            says.append(f"{refused} of {len(found)} scored nights were refused: no stages to judge")
        output = pathlib.Path(OUTPUT.value)
        result = agreement_report.report(nights, output, says=says, left=left)
    except (ValueError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    for line in (*says, *left):
        print(line)
    for pair in result["pairs"]:
        shown = (
            f"{name} {pair['metrics'][name]['value']:.3f}" for name in ("accuracy", "macro_f1")
        )
        kappa = pair["metrics"]["kappa"]["value"]
        told = f"{pair['who']} against {pair['truth']} ({pair['nights']} nights)"
        print(f"{told}: kappa {'-' if kappa is None else f'{kappa:.3f}'}, {', '.join(shown)}")
    print(f"{OUTPUT.value}: agreement.html, agreement.csv, agreement.json, agreement.png")
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["output"])
    sys.exit(app.run(main))
