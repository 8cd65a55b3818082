r"""Lock the test nights of a store, and open them for one command at a time.

    python -m launch.open_test --nights=STORE --lock
    python -m launch.open_test --nights=STORE --model=EXPORT -- launch.evaluate --workdir=EXPORT
    python -m launch.open_test --nights=STORE

The first locks: from then on every command that reads a test night of the store ends with an error.
The second writes down the time, the command and the checksum of the model, and runs the command,
for which alone the test nights are open. The third lists the openings. ``launch.agreement`` tells
their number. Exit codes: the command's, or 1 on an error.
"""

import subprocess
import sys

from absl import app, flags

NIGHTS = flags.DEFINE_list("nights", None, "stores", required=True)
MODEL = flags.DEFINE_string("model", "", "export or run that the command judges")
LOCK = flags.DEFINE_bool("lock", False, "lock the test nights")


def main(argv):
    from data_pipelines import held_out
    from data_pipelines.store import NightStore, StoreError

    command = argv[1:]
    if LOCK.value and command:
        raise app.UsageError(f"--lock runs no command, and was given {command}")
    if command and not command[0].startswith("launch."):
        raise app.UsageError(f"{command[0]!r} is no command such as launch.evaluate")
    try:
        for path in NIGHTS.value:
            store = NightStore(path)
            if LOCK.value:
                held_out.lock(store.path)
                print(f"{path}: its {len(store.select('test'))} test nights are locked")
        checksum = ""
        if command and MODEL.value:
            from hypnos_jax.export.model import load_model

            checksum = load_model(MODEL.value).checksum
        for path in NIGHTS.value:
            if command:
                number = held_out.record_opening(path, command, checksum)
                print(f"{path}: opening {number} of its test nights", flush=True)
            elif not LOCK.value:
                for row in held_out.openings(path):
                    what = row["model"][:12] or "no model"
                    print(f"{path}: {row['opened']} {what}: {' '.join(row['command'])}")
                print(f"{path}: opened {len(held_out.openings(path))} times")
    except (StoreError, ValueError, OSError) as error:
        print(f"open_test: {error}", file=sys.stderr)
        return 1
    if not command:
        return 0
    environment = held_out.environment(NIGHTS.value)
    return subprocess.run([sys.executable, "-m", *command], env=environment).returncode


if __name__ == "__main__":
    sys.exit(app.run(main))
