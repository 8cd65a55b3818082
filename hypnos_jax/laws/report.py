"""The report of a sweep's laws: one HTML page that needs no other, figures, a table, numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.files import atomic_write
from hypnos_jax.laws import figures, isoflop, metric, parametric
from hypnos_jax.laws.fitting import Estimate, LawError
from hypnos_jax.laws.runs import Table, count
from hypnos_jax.reports.page import render

LAWS = ("isoflop", "parametric", "repeated", "holdout", "diversity", "probe")
MOST_PROBES = 6  # panels
ENOUGH = 0.75  # of the runs held out, of which 95 % should lie in their intervals


@dataclasses.dataclass
class Section:
    """One law in the report.

    Attributes:
        title: of it.
        says: sentences.
        doubts: sentences on what does not hold.
        numbers: for ``laws.json``.
        figure: ``(file name, caption, draw)``, draw taking the table, a path and ``fit``.
        fit: what was fitted.
    """

    title: str
    says: list[str] = dataclasses.field(default_factory=list)
    doubts: list[str] = dataclasses.field(default_factory=list)
    numbers: dict = dataclasses.field(default_factory=dict)
    figure: tuple[str, str, Callable] | None = None
    fit: object = None


def write(
    of: Table,
    output: str | os.PathLike,
    *,
    only: Sequence[str] = (),
    probes: Sequence[str] = (),
    budget: float | None = None,
    nights: float | None = None,
    hours: float = 8.0,
    channels: float | None = None,
) -> str:
    """Fit what the runs can carry, and write the report; return its recommendation as text.

    Args:
        of: the runs.
        output: folder; gets ``laws.html``, PNGs, ``runs.csv``, ``laws.json``.
        only: of ``LAWS``; by default those whose variables differ between the runs.
        probes: metrics to relate to the loss.
        budget: FLOPs to spend; ten times the largest run's by default.
        nights, hours, channels: the corpus; no limit where ``nights`` is None.

    Raises:
        ValueError: no such law or metric.
    """
    unknown = [law for law in only if law not in LAWS]
    if unknown:
        raise ValueError(f"no law {unknown[0]!r}; there are {', '.join(LAWS)}")
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    probes = _probes(of, probes)
    build = {
        "isoflop": _isoflop,
        "parametric": _parametric,
        "repeated": _repeated,
        "holdout": _holdout,
        "diversity": _diversity,
        "probe": lambda of: _probe(of, probes),
    }
    sections = {}
    for law in only or _fitting(of, probes):
        try:
            sections[law] = build[law](of)
        except LawError as error:
            sections[law] = Section(TITLES[law], doubts=[f"Not fitted: {error}."])
    budget = budget or 10 * float(of.points.flops.max())
    advice = _advice(of, sections, budget, nights, hours, channels)
    for old in output.glob("*.png"):
        if old.stem in LAWS:
            old.unlink()
    for section in sections.values():
        if section.figure:
            section.figure[2](of, output / section.figure[0], section.fit)
    _write_text(output / "runs.csv", of.csv())
    numbers = {
        "runs": len(of.names),
        "left_out": of.left_out,
        "metric": of.metric,
        **{law: {**s.numbers, "doubts": s.doubts} for law, s in sections.items()},
        "recommendation": {**advice.numbers, "says": advice.says, "doubts": advice.doubts},
    }
    _write_text(output / "laws.json", json.dumps(_plain(numbers), indent=1) + "\n")
    _write_text(output / "laws.html", _page(of, sections, advice, output))
    return "\n".join([*advice.says, *(f"But: {x}" for x in advice.doubts)])


def _write_text(path: pathlib.Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


TITLES = {
    "isoflop": "The best size for each budget",
    "parametric": "Loss by parameters and data",
    "repeated": "What repeated nights are worth",
    "holdout": "Do the smaller budgets predict the largest?",
    "diversity": "More modalities",
    "probe": "Does a lower loss mean a better probe?",
}


def _fitting(of: Table, probes) -> list[str]:
    """The laws whose variables differ between the runs."""
    points = of.points
    groups = of.groups()
    valleys = sum(len(np.unique(points.params[groups == g])) >= 3 for g in np.unique(groups))
    # More modalities are more parameters too, which is not what such runs are about.
    alike = len(np.unique(of.modalities)) == 1
    several = alike and _is_wide(points.params, 2) and _is_wide(points.data, 1.5)
    found = {
        "isoflop": alike and valleys >= (3 if of.budget is None else 1),
        "parametric": several,
        "repeated": (points.data > 1.5 * points.unique).any() and several,
        "holdout": several and len(np.unique(groups)) >= 2,
        "diversity": not alike,
        "probe": bool(probes),
    }
    return [law for law, fits in found.items() if fits]


def _is_wide(x, least) -> bool:
    return len(np.unique(x)) >= 3 and x.max() > least * x.min()


def _probes(of: Table, asked) -> list[str]:
    for name in asked:
        if name not in of.others:
            raise ValueError(f"no run has {name}; they have {', '.join(of.others) or 'none'}")
    if asked:
        return list(asked)
    usable = [
        name
        for name, values in of.others.items()
        if name.startswith("eval/probe") and np.isfinite(values).sum() >= 5
    ]
    return usable[:MOST_PROBES]


def _isoflop(of: Table) -> Section:
    fit = isoflop.fit_isoflop(of.points, of.groups())
    section = Section(TITLES["isoflop"], fit=fit, doubts=list(fit.warnings))
    section.says.append(
        "Each curve is one budget of compute, spent on models of several sizes: small ones see more"
        " data, large ones less. Where the curve is lowest lies the best size for that budget."
    )
    if fit.params:
        section.says.append(
            f"The best size grows as compute to the power {power(fit.params.exponent)}, the best"
            f" amount of data as compute to the power {power(fit.data.exponent)}."
        )
        section.numbers |= {"a": fit.params.exponent, "b": fit.data.exponent}
    section.numbers["valleys"] = [
        {k: getattr(v, k) for k in ("flops", "params", "data", "loss", "inside")}
        for v in fit.valleys
    ]
    section.figure = ("isoflop.png", "Loss over size for each budget", figures.draw_isoflop)
    return section


def _parametric(of: Table) -> Section:
    fit = parametric.fit_parametric(of.points)
    found = fit.estimates()
    section = Section(TITLES["parametric"], fit=fit, doubts=list(fit.warnings))
    section.says += [
        "One formula for all runs: loss = E + A / N^alpha + B / D^beta, where N is parameters and D"
        f" {of.unit}. E is what would remain with endless both.",
        "; ".join(f"{k} = {found[k]}" for k in ("E", "A", "B", "alpha", "beta")) + ".",
        f"The best size then grows as compute to the power {power(found['a'])}, the best amount of"
        f" data to the power {power(found['b'])}. Single runs lie about {fit.spread():.2%} off.",
        f"Compute is taken as {math.exp(fit.compute.log_k):.3g} N^{fit.compute.g:.3g} D FLOPs,"
        f" which the runs' own counts meet within {_off(fit):.1%}.",
    ]
    far = np.abs(fit.residuals) > 3 * max(fit.spread(), 1e-12)
    far |= np.abs(fit.residuals) > 6 * np.median(np.abs(fit.residuals)) + 0.01
    if far.any():
        names = ", ".join(np.array(of.names)[far][:6])
        section.doubts.append(
            f"{far.sum()} of {len(of.names)} runs lie far off the formula ({names}): it does not"
            " hold for them, or they were not trained as the others"
        )
    repeated = (of.points.data > 1.5 * of.points.unique).sum()
    if repeated:
        section.doubts.append(
            f"{repeated} of {len(of.names)} runs saw their corpus more than one and a half times,"
            " which this formula takes for new data"
        )
    section.numbers = {
        **found,
        "spread": fit.spread(),
        "flops": f"{math.exp(fit.compute.log_k):.6g} * N^{fit.compute.g:.6g} * D",
    }
    section.figure = ("parametric.png", "The formula", figures.draw_parametric)
    return section


def _off(fit: parametric.Parametric) -> float:
    """How far a run's compute is from what is taken for it, at most."""
    said = fit.compute.flops(fit.points.params, fit.points.data)
    return float(np.abs(np.log(said / fit.points.flops)).max())


def _repeated(of: Table) -> Section:
    fit = parametric.fit_constrained(of.points)
    found = fit.estimates()
    section = Section(TITLES["repeated"], fit=fit, doubts=list(fit.warnings), numbers=found)
    few, many, endless = (parametric.worth(fit, passes) for passes in (4, 16, 1e9))
    section.says += [
        "This formula lets each further pass over the same nights be worth less than the last."
        f" By it four passes are worth {few.value:.3g} ({few.low:.3g} to {few.high:.3g}) passes of"
        f" new nights, sixteen {many.value:.3g} ({many.low:.3g} to {many.high:.3g}), endless ones"
        f" {endless.value:.3g} ({endless.low:.3g} to {endless.high:.3g}).",
        "; ".join(f"{k} = {x}" for k, x in found.items() if k not in "ab") + ".",
    ]
    section.figure = ("repeated.png", "Repeated nights", figures.draw_repeated)
    return section


def _holdout(of: Table) -> Section:
    held = parametric.hold_out(of.points, of.groups())
    section = Section(TITLES["holdout"], fit=held, doubts=list(held.warnings))
    count = len(held.reached)
    section.says.append(
        f"The formula was fitted without the largest budget ({held.flops:.3g} FLOPs) and asked for"
        f" its {count} runs: they reached {abs(held.error):.2%}"
        f" {'more' if held.error > 0 else 'less'} loss than predicted, where single runs"
        f" scatter by {held.spread:.2%}; {held.within:.0%} lie in their 95 % intervals."
    )
    if held.within < ENOUGH:
        section.doubts.append(
            "the intervals are too narrow: the formula does not hold over this range, and what it"
            " says of larger budgets is worth less than its intervals claim"
        )
    section.numbers = {
        k: getattr(held, k) for k in ("flops", "error", "spread", "within", "predicted", "reached")
    }
    section.figure = ("holdout.png", "Predicted and reached", figures.draw_holdout)
    return section


def _diversity(of: Table) -> Section:
    fit = metric.fit_diversity(of.modalities, of.points.loss)
    section = Section(TITLES["diversity"], fit=fit, doubts=list(fit.warnings))
    top = int(of.modalities.max())
    section.says.append(
        f"{of.metric} = c - a M^-b over M modalities: a = {fit.a}, b = {fit.b}, c = {fit.c}."
        f" Going from {top} to {2 * top} would change it by {fit.gain}."
    )
    section.numbers = {"a": fit.a, "b": fit.b, "c": fit.c, "gain_of_doubling": fit.gain}
    section.figure = ("diversity.png", "By modalities", figures.draw_diversity)
    return section


def _probe(of: Table, probes) -> Section:
    found = {}
    section = Section(TITLES["probe"], fit=found)
    for name in probes:
        own = np.isfinite(of.others[name])
        try:
            found[name] = metric.relate(of.points.loss[own], of.others[name][own])
        except LawError as error:
            section.doubts.append(f"{name}: {error}")
    for name, relation in found.items():
        section.says.append(
            f"{name}: rank correlation with the loss {relation.rank} (-1: the lower the loss, the"
            f" higher this, without exception); a {relation.form} describes it best."
        )
        section.doubts += [f"{name}: {x}" for x in relation.warnings]
        section.numbers[name] = {"rank": relation.rank, "form": relation.form}
    if found:
        section.figure = ("probe.png", "Probes", figures.draw_probe)
    return section


def _advice(of, sections, budget, nights, hours, channels) -> Section:
    """How to spend the budget, by the best law that there is."""
    section = Section("Recommendation")
    channels = channels or float(of.modalities.max()) or 1.0
    unique = nights * hours * 3600 * channels if nights else math.inf
    corpus = f"{nights:,.0f} nights of {hours:g} h and {channels:g} channels" if nights else ""
    corpus = corpus or "as much data as it takes"
    repeated, plain, iso = (
        getattr(sections.get(k), "fit", None) for k in ("repeated", "parametric", "isoflop")
    )
    law = repeated or plain
    if law:
        best = parametric.allocate(law, budget, unique)
        says = (
            f"With {budget:.3g} FLOPs and {corpus}: train {count(best.params.value)} parameters"
            f" ({count(best.params.low)} to {count(best.params.high)})"
        )
        if best.epochs and best.epochs.high > 1:
            e = best.epochs
            says += f" for {e.value:.3g} passes ({e.low:.3g} to {e.high:.3g}) over all of them"
        elif best.epochs:
            e = best.epochs
            says += (
                f" on {e.value * nights:,.0f} nights ({e.low * nights:,.0f} to"
                f" {e.high * nights:,.0f}) once; more would be left over"
            )
        else:
            says += (
                f" on {of.data(best.data.value)} ({of.data(best.data.low)} to"
                f" {of.data(best.data.high)})"
            )
        loss = best.loss
        says += f". Expect {of.metric} {loss.value:.3f} ({loss.low:.3f} to {loss.high:.3f}),"
        says += f" about which single runs scatter by {law.spread():.2%}."
        section.says, section.doubts = [says], [*best.warnings, *law.warnings]
        if iso and iso.params and not (best.epochs and best.epochs.value > 1):
            other = iso.params.at(budget)
            if not 2 / 3 < other.value / best.params.value < 3 / 2:
                agree = other.low <= best.params.value <= other.high
                agree |= best.params.low <= other.value <= best.params.high
                how = "the two agree but loosely" if agree else "two ways that should agree do not"
                section.doubts.append(
                    f"the curves of the budgets alone say {count(other.value)} parameters"
                    f" ({count(other.low)} to {count(other.high)}): {how}, so run a larger budget"
                    " before spending this one"
                )
        section.numbers = dataclasses.asdict(best)
    elif iso and iso.params:
        n, d = iso.params.at(budget), iso.data.at(budget)
        section.says = [
            f"With {budget:.3g} FLOPs: train {count(n.value)} parameters ({count(n.low)} to"
            f" {count(n.high)}) on {of.data(d.value)} ({of.data(d.low)} to {of.data(d.high)})."
        ]
        section.doubts = list(iso.warnings)
        if d.value > unique:
            section.doubts.append(
                f"that is {d.value / unique:.3g} passes over the corpus, which IsoFLOP curves know"
                " nothing of"
            )
        section.numbers = {"flops": budget, "params": n, "data": d}
    else:
        section.says = ["None: these runs carry no law of size and data."]
        if "loss" in of.metric:  # of another metric more may be better
            best = int(np.argmin(of.points.loss))
            section.says[0] += (
                f" The lowest {of.metric}, {of.points.loss[best]:.4g}, is that of {of.names[best]}."
            )
    held = getattr(sections.get("holdout"), "fit", None)
    if held and held.within < ENOUGH:
        section.doubts.append(
            f"the smaller budgets did not predict the largest: {held.within:.0%} of its runs lie in"
            " the intervals that should hold 95 %, so those above are too narrow"
        )
    if nights and of.unit != "channel-seconds":
        section.doubts.append(
            f"the corpus is taken as {unique:.3g} {of.unit}, one for each second and channel: the"
            " table must count so"
        )
    if law and any(not v.inside for v in getattr(iso, "valleys", ())):
        section.doubts.append("of some budgets the best size is at the edge of what was run")
    return section


def power(x: Estimate) -> str:
    """An exponent in words."""
    return f"{x.value:.2f} ({x.low:.2f} to {x.high:.2f})"


def _plain(x):
    """JSON of anything here; intervals as dicts, what is not finite as null."""
    if isinstance(x, Estimate):
        return _plain(x._asdict())
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple | np.ndarray):
        return [_plain(v) for v in x]
    if isinstance(x, np.generic):
        return _plain(x.item())
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _page(of: Table, sections: dict[str, Section], advice: Section, output: pathlib.Path) -> str:
    points, groups = of.points, of.groups()

    def span(x, how):
        return f"{how(x.min())} to {how(x.max())}"

    ran = (
        f"{len(of.names)} finished runs of {of.what}: {span(points.params, count)}"
        f" parameters, {span(points.data, of.data)}, {span(points.flops, '{:.3g}'.format)} FLOPs;"
        f" {of.metric} {span(points.loss, '{:.3f}'.format)}."
    )
    head = ["run", "parameters counted", "all", of.unit, "passes", "FLOPs", of.metric]
    rows = [head]
    for i in np.lexsort((points.params, groups)):
        passes = points.data[i] / points.unique[i]
        rows.append(
            [
                of.names[i],
                f"{points.params[i]:,.0f}",
                f"{of.parameters[i]:,.0f}",
                f"{points.data[i]:,.0f}",
                f"{passes:.3g}" if passes else "-",
                f"{points.flops[i]:.3g}",
                float(points.loss[i]),
            ]
        )
    return render(
        "laws.html",
        title=f"Scaling laws of {of.what}",
        advice=advice,
        ran=f"{ran} {_counted(of)}",
        left_out=[f"{name} {why}" for name, why in of.left_out.items()],
        sections=sections.values(),
        folder=output,
        rows=rows,
    )


def _counted(of: Table) -> str:
    if of.unit != "channel-seconds":
        return "Parameters and data are as the table counts them."
    whole = (of.points.params == of.parameters).all()
    return f"Data are counted in {of.unit}, each channel for itself. Parameters are " + (
        "all that the models have."
        if whole
        else "those in use at each step: tables that are only looked up (embeddings) are left out."
    )
