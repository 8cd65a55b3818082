"""Frozen features of several models on the same nights: staging by a linear probe, site by site.

Features are by 30-s epoch, modalities side by side. One probe a model
(``hypnos_jax.probing.probe``) is fitted on the training and validation people of the sites that
training saw, and read on test people of these sites, and on a site that nothing was trained on.
Where a method has several seeds, its score is their mean; intervals are over test people drawn with
replacement, the same people for all methods, so that differences have intervals too.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.builders.night_builder import write_store
from data_pipelines.store import EPOCH_S, Night, NightEntry, NightStore
from hypnos_jax import evaluate
from hypnos_jax.export.model import LoadedModel
from hypnos_jax.inference.embedding import epoch_means
from hypnos_jax.models.token_chunks import carry, embed_tokens, read_window
from hypnos_jax.probing import hand_features as features
from hypnos_jax.probing import probe
from hypnos_jax.reports.figures import GREEN, GREY, ORANGE, new_figure, save_figure

SPLITS = ("train", "validation", "test")
SITES = ("seen", "unseen")
CLASSES = 5
STRENGTH = 100.0  # ours: of the probes' penalty; hundreds of features meet thousands of epochs
DRAWS = 1000
# The modalities that are channels of Hypnos too; the others come at 4 Hz, too slow for it.
AS_CHANNELS = {"eeg": "eeg_c3", "eog": "eog_e1", "emg": "emg_chin", "ecg": "ecg"}

Features = dict[str, np.ndarray]  # recording -> [E, D]


def write_channels(store: NightStore, folder: pathlib.Path) -> None:
    """Write the same nights as channels of Hypnos: EEG, EOG, chin and ECG under other names.

    Their scale is that of the modalities: robust z-scores of a night, where Hypnos has rolling
    ones.
    """
    there = {row["name"] for row in store.manifest["channels"]}
    kept = {name: channel for name, channel in AS_CHANNELS.items() if name in there}
    write_store(
        folder,
        kind="signals",
        items={night.recording: night for night in store.nights},
        make_night=functools.partial(_as_channels, store, kept),
        provenance={"channels_of": str(store.path.name), "channels": list(kept.values())},
        progress=False,
    )


def _as_channels(store, kept, entry: NightEntry) -> Night:
    channels = {
        channel: dataclasses.replace(store.channel(entry, name), name=channel)
        for name, channel in kept.items()
        if name in entry.channels
    }
    return Night(
        recording=entry.recording,
        subject=entry.subject,
        split=entry.split,
        channels=channels,
        stages=store.stages(entry),
        events=store.events(entry),
        metadata=entry.metadata,
    )


def tower_features(context: evaluate.Context, variables: dict, batch_size: int = 32) -> Features:
    """Return what the trunk makes of every token of every night, modalities side by side.

    Args:
        context: of a config whose data are ``modality_nights`` and whose objective has ``encode``.
        variables: of the objective.
        batch_size: windows at once.
    """
    encode = context.functions("encode")
    names = [row["name"] for row in context.source("train").describe()["modalities"]]
    nights = context.store.nights
    found: Features = {}
    for split in SPLITS:
        for batch in context.batches(split, batch_size):
            widest = max(batch[f"signal/{name}"].shape[-1] for name in names)
            parts = []
            for i, name in enumerate(names):
                signal = batch[f"signal/{name}"]
                signal = jnp.pad(signal, ((0, 0), (0, 0), (0, widest - signal.shape[-1])))
                given = (signal, batch["scale"][:, i], batch["valid"][:, :, i], jnp.int32(i))
                parts.append(jax.device_get(encode(variables, *given)))
            rows = np.concatenate(parts, axis=-1)
            facts = context.fetch({name: batch[name] for name in ("night", "start", "weight")})
            for row in np.flatnonzero(facts["weight"] > 0):
                night, start = nights[facts["night"][row]], int(facts["start"][row])
                epochs = night.duration_s // EPOCH_S
                own = found.setdefault(
                    night.recording, np.full((epochs, rows.shape[-1]), np.nan, np.float32)
                )
                own[start : start + rows.shape[1]] = rows[row, : epochs - start]
    return found


def hypnos_features(model: LoadedModel, store: NightStore) -> Features:
    """Return the epoch means of an RQ-Transformer's contexts, modalities side by side."""
    objective, names = model.objective, [row["name"] for row in model.config["modalities"]]
    kept = [] if objective.reach is None else ["cache"]

    @jax.jit
    def apply(own, cache, *given):
        return objective.apply({**own, **cache}, *given, method="embed_next", mutable=kept)

    step = carry(apply, jax.device_put(model.variables))
    found = {}
    for night in store.nights:
        read = functools.partial(read_window, store, night, names)
        pieces = embed_tokens(
            step, read, night.duration_s, lag=objective.embed_lag, reach=objective.reach
        )
        rows = [np.concatenate([piece[name] for name in names], axis=-1) for piece in pieces]
        found[night.recording] = epoch_means(np.concatenate(rows))
    return found


def hand_features(store: NightStore) -> Features:
    """Return hand-made features of a store of channels: band power and RR irregularity."""
    return {night.recording: features.epoch_features(store, night)[0] for night in store.nights}


def stage_examples(store: NightStore, sets: Mapping[str, Features]) -> probe.Examples:
    """Return the epochs of all nights with their stages.

    Args:
        store: the nights' stages and people.
        sets: name -> features of every night.
    """
    labels, any_set = [], next(iter(sets.values()))
    for night in store.nights:
        own = np.full(len(any_set[night.recording]), -1)
        stages = store.stages(night)[: len(own)]
        own[: len(stages)] = stages
        labels.append(own)
    return probe.Examples(
        recordings=[night.recording for night in store.nights],
        subjects=[night.subject for night in store.nights],
        splits=[night.split for night in store.nights],
        labels=labels,
        features={
            name: [own[night.recording] for night in store.nights] for name, own in sets.items()
        },
        classes=("W", "N1", "N2", "N3", "R"),
    )


def stage_counts(store: NightStore, own: Features, unseen: Sequence[str]) -> dict[str, list]:
    """Return test recording -> confusion counts [5][5] of a probe.

    Args:
        store: the nights' stages and people.
        own: features of every night.
        unseen: sites that the probe is not fitted on; all of their nights are tested.
    """
    examples = stage_examples(store, {"own": own})
    test = {n.subject for n in store.nights if n.split == "test" or n.metadata["site"] in unseen}
    train = sorted({night.subject for night in store.nights} - test)
    found = probe.cross_predict(examples, "own", [(train, sorted(test))], strength=STRENGTH)
    return {
        recording: probe.confusion(truth, said.argmax(1), CLASSES).tolist()
        for recording, truth, said in zip(found.recordings, found.labels, found.probabilities)
    }


def judge(
    store: NightStore, methods: Mapping[str, Sequence[dict]], unseen: Sequence[str]
) -> dict[str, dict]:
    """Return method -> ``{"seen": score, "unseen": score}``, and the same of differences.

    Args:
        store: the nights' people.
        methods: name -> a result a seed, each with ``"counts"`` of ``stage_counts``.
        unseen: names of the sites that nothing was trained on.

    Returns:
        A score is ``{"kappa", "low", "high", "accuracy", "macro_f1", "seeds": [kappa of each],
        "subjects"}``. "A minus B" has kappas alone, for each pair of methods in order.
    """
    entries = {night.recording: night for night in store.nights}
    tested = next(iter(methods.values()))[0]["counts"]
    out = {name: {} for name in methods}
    for where in SITES:
        here = [r for r in tested if (entries[r].metadata["site"] in unseen) == (where == "unseen")]
        people = sorted({entries[r].subject for r in here})
        if not people:
            continue
        index = [people.index(entries[r].subject) for r in here]
        shares = np.full(len(people), 1 / len(people))
        drawn = np.random.default_rng(0).multinomial(len(people), shares, size=DRAWS)
        spreads = {}
        for name, seeds in methods.items():
            values, spread = [], []
            for result in seeds:
                counts = np.zeros((len(people), CLASSES, CLASSES))
                np.add.at(counts, index, np.array([result["counts"][r] for r in here]))
                values.append(probe.agreement(counts.sum(0)))
                spread.append(probe.agreement(np.einsum("ds,sij->dij", drawn, counts))["kappa"])
            spreads[name] = np.mean(spread, axis=0)
            low, high = probe.interval(spreads[name], len(people))
            mean = {k: float(np.mean([v[k] for v in values])) for k in values[0]}
            own = [float(v["kappa"]) for v in values]
            out[name][where] = mean | {
                "low": low,
                "high": high,
                "seeds": own,
                "subjects": len(people),
            }
        names = list(methods)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                low, high = probe.interval(spreads[first] - spreads[second], len(people))
                kappa = out[first][where]["kappa"] - out[second][where]["kappa"]
                pair = out.setdefault(f"{first} minus {second}", {})
                pair[where] = {"kappa": kappa, "low": low, "high": high}
    return out


def mean_retrieval(results: Sequence[dict]) -> dict[str, dict]:
    """Return where -> the mean over seeds of what ``evaluators/retrieval.py`` found, if it did."""
    found = {}
    for where in SITES:
        own = [r["retrieval"][where] for r in results if r.get("retrieval", {}).get(where)]
        if own:
            found[where] = {key: float(np.mean([row[key] for row in own])) for key in own[0]}
            found[where]["seeds"] = [row["accuracy"] for row in own]
    return found


def write_table(report: dict) -> str:
    """Return the comparison as a table in Markdown."""
    head = ["features", "seeds"]
    head += [f"staging, {where} sites: kappa (95 %)" for where in SITES]
    head += [f"contrastive accuracy, {where} sites" for where in SITES]
    rows = [head, ["---"] * len(head)]
    for name, found in report["methods"].items():
        row = [name, str(found["count"])]
        row += [_kappa(found["staging"].get(where)) for where in SITES]
        row += [_times(found["retrieval"].get(where)) for where in SITES]
        rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {line}" for line in report["notes"])]
    for name, found in report["differences"].items():
        both = "; ".join(f"{where} {_kappa(found.get(where), '+.3f')}" for where in SITES)
        lines.append(f"- kappa of {name}: {both}")
    return "\n".join(lines) + "\n"


def _kappa(found, form=".3f") -> str:
    if not found:
        return ""
    text = format(found["kappa"], form)
    if found["low"] is None:
        return text
    return f"{text} ({found['low']:{form}} to {found['high']:{form}})"


def _times(found) -> str:
    if not found:
        return ""
    times = found["accuracy"] / found["chance"]
    return f"{found['accuracy']:.3f} = {times:.1f} x chance, N = {found['windows']:.0f}"


def draw(report: dict, path: str | os.PathLike) -> None:
    """Draw the comparison as a PNG: staging with intervals, and contrastive accuracy.

    Args:
        report: what ``comparison.json`` holds.
        path: the file; replaced whole.
    """
    names = list(report["methods"])
    figure, axes = new_figure(1, 2, (12, 1.8 + 0.62 * len(names)))
    places = np.arange(len(names))[::-1]
    for i, (where, colour) in enumerate(zip(SITES, (ORANGE, GREEN))):
        for place, name in zip(places + 0.19 - 0.38 * i, names):
            found = report["methods"][name]["staging"].get(where)
            label = f"{where} sites" if name == names[0] else None
            if found:
                axes[0].barh(place, found["kappa"], 0.36, color=colour, label=label)
                axes[0].plot(found["seeds"], [place] * len(found["seeds"]), "k.", markersize=3)
                if found["low"] is not None:
                    ends = [found["low"], found["high"]]
                    axes[0].plot(ends, [place] * 2, color="black", linewidth=1)
            found = report["methods"][name]["retrieval"].get(where)
            if found:
                axes[1].barh(place, found["accuracy"], 0.36, color=colour, label=label)
                axes[1].plot(found["seeds"], [place] * len(found["seeds"]), "k.", markersize=3)
                ten = 10 * found["chance"]
                axes[1].plot([ten] * 2, [place - 0.18, place + 0.18], color="black", linewidth=2)
    for axis in axes:
        axis.set_yticks(places, names, fontsize=9)
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.axvline(0, color=GREY, linewidth=0.8)
    axes[0].set_xlabel("staging from frozen features, Cohen's kappa\n(line: 95 %; dots: seeds)")
    axes[1].set_xlabel(
        "contrastive accuracy, mean over pairs\n(thick line: 10 x chance; dots: seeds)"
    )
    axes[1].set_xlim(0, 1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    figure.suptitle(report["title"], fontsize=10, x=0.01, ha="left")
    save_figure(figure, path)
