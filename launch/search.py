"""Find epochs by words: ``python -m launch.search --model=EXPORT --nights=STORE "QUESTION"``.

Prints night, epoch, score, stage and events of the epochs that fit best, and writes to
``--output`` the table (``hits.csv``), ``hits.json`` and a page with pictures (``hits.html``).
``--like`` takes an epoch in place of a question. A question that names stages and events ("oxygen
desaturation without arousal in REM") is asked in the words of captions; ``--literal`` embeds it as
it stands. Words that no caption has are refused, with what the model knows.

The first search of a model and a store embeds all epochs (an index in ``STORE/search`` or
``--index``), and goes on after an interruption; later ones read it.

Exit codes: 0 done; 1 where the question, the model or the store cannot be used.
"""

import importlib.util
import pathlib
import sys

from absl import app, flags

MODEL = flags.DEFINE_string("model", None, "Folder of a run or an export that knows texts.")
NIGHTS = flags.DEFINE_string("nights", None, "Store of nights, prepared by the model's recipe.")
LIKE = flags.DEFINE_string("like", None, "RECORDING:EPOCH to find others like it.")
TOP = flags.DEFINE_integer("top", 20, "How many epochs.", 1, 10_000)
APART = flags.DEFINE_integer("apart", 10, "Epochs between hits of one night, at least.", 1, 10_000)
LITERAL = flags.DEFINE_bool("literal", False, "Embed the question as it stands.")
INDEX = flags.DEFINE_string("index", None, "Folder of the index; default: in the store.")
OUTPUT = flags.DEFINE_string("output", None, "Folder for hits.csv, hits.json and hits.html.")
PICTURES = 50  # that a page has at most: each takes some 60 kB


def main(argv):
    if len(argv) > 2 or (len(argv) == 2) == bool(LIKE.value):
        raise app.UsageError('give one question in quotes, such as "hypopnea in REM", or --like')
    import tqdm

    from data_pipelines.store import NightStore
    from hypnos_jax import checkpoint
    from hypnos_jax.inference.text_search import NightSearch, read_place
    from hypnos_jax.runtime import compile_cache  # after the flags: imports start jax

    checkpoint.quiet()
    compile_cache.keep()

    # A terminal may lack letters that names of recordings have.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        store = NightStore(NIGHTS.value)
        place = read_place(LIKE.value) if LIKE.value else None
        with tqdm.tqdm(total=len(store.nights), desc="index", unit="night", leave=False) as bar:
            search = NightSearch(
                MODEL.value, store, index=INDEX.value, finished=lambda name: bar.update()
            )
        options = {"top": TOP.value, "apart": APART.value}
        if place is None:
            answer = search.ask(argv[1], literal=LITERAL.value, **options)
        else:
            answer = search.like(*place, **options)
        report(search, answer)
    except (ValueError, OSError) as error:
        print(f"search: {error}", file=sys.stderr)
        return 1
    return 0


def report(search, answer) -> None:
    """Print what was found, and write it where that was asked for."""
    from data_pipelines.captions.grammar import render
    from hypnos_jax.reports import search_page
    from hypnos_jax.reports.language_figures import draw_epoch

    rows = []
    for rank, found in enumerate(answer.found, 1):
        night, epoch = found.hit.night.recording, found.hit.epoch
        caption = ""
        if found.facts is not None:
            caption = str(render(found.facts, "global", recording=night, epoch=epoch))
        rows.append(
            {
                "rank": rank,
                "night": night,
                "epoch": epoch,
                "start_s": 30 * epoch,
                "score": round(found.hit.score, 4),
                "stage": found.stage,
                "events": found.events,
                "as_asked": found.agrees,
                "caption": caption,
            }
        )
    notes = notes_of(search, answer)
    print(f"{'rank':>4s} {'score':>7s} {'epoch':>6s} {'stage':5s} night; events")
    for row in rows:
        mark = {True: " (as asked)", False: " (not as asked)"}.get(row["as_asked"], "")
        print(
            f"{row['rank']:4d} {row['score']:7.3f} {row['epoch']:6d} {row['stage']:5s}"
            f" {printable(row['night'])}; {row['events']}{mark}"
        )
    for note in notes:
        print(f"note: {note}")
    if OUTPUT.value is None:
        return
    output = pathlib.Path(OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    about = {"asked": answer.asked, "texts": list(answer.texts), "notes": notes}
    search_page.write_table(output / "hits.csv", rows)
    search_page.write_json(output / "hits.json", rows, about)

    def draw(number, path):
        found = answer.found[number]
        events = found.facts.events if found.facts is not None and found.facts.events else ()
        title = f"epoch {found.hit.epoch}, score {found.hit.score:.3f}"
        lanes = {kind: ([e for e in events if e.kind == kind], ()) for kind in kinds_of(events)}
        draw_epoch(search.signals(found.hit), lanes, path, title=title)

    if importlib.util.find_spec("matplotlib") is None:
        notes, draw = [*notes, "Pictures need matplotlib, which the extra `probe` installs."], None
    shown = rows[:PICTURES]
    search_page.write_page(
        output / "hits.html", shown, draw, asked=answer.asked, notes=notes, texts=answer.texts
    )
    print(f"{output}: hits.csv, hits.json, hits.html")


def kinds_of(events) -> list[str]:
    """The kinds of events, each once."""
    return list(dict.fromkeys(event.kind for event in events))


def notes_of(search, answer) -> list[str]:
    """Sentences about the whole."""
    notes = []
    known = [found.agrees for found in answer.found if found.agrees is not None]
    if known:
        chance = "" if answer.share is None else f"; of all scored epochs {answer.share:.1%} are"
        notes.append(f"{sum(known)} of {len(known)} epochs are what was asked for{chance}.")
    if not any(found.facts for found in answer.found):
        notes.append("Stages and events are not known: python -m launch.caption_nights finds them.")
    if search.index.damaged:
        notes.append(f"{len(search.index.damaged)} nights could not be embedded.")
    return notes


def printable(text: str) -> str:
    """A name with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "nights"])
    sys.exit(app.run(main))
