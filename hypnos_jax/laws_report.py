"""The report of a sweep's laws: one HTML page that needs no other, figures, a table, numbers."""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from hypnos_jax import isoflop, laws, metric_laws, scaling
from hypnos_jax.laws import Estimate, LawError, Points
from hypnos_jax.report import STYLE, table, text, versions, write_whole
from hypnos_jax.result_figures import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure

LAWS = ("isoflop", "parametric", "repeated", "holdout", "diversity", "probe")
MOST_PROBES = 6  # panels
ENOUGH = 0.75  # of the runs held out, of which 95 % should lie in their intervals


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs to fit laws to.

    Attributes:
        what: where they are from, in words.
        metric: the loss's name.
        unit: of data: ``"channel-seconds"``, or the table's own.
        names: of the runs.
        points: their numbers.
        budget: [n], runs of one budget have one number; None where none was given.
        modalities: [n], 0 where unknown.
        others: name -> [n], NaN where a run lacks it: other metrics.
        parameters: [n], all of them, looked-up tables too.
        left_out: name -> why.
    """

    what: str
    metric: str
    unit: str
    names: list[str]
    points: Points
    budget: np.ndarray | None
    modalities: np.ndarray
    others: dict[str, np.ndarray]
    parameters: np.ndarray
    left_out: dict[str, str]

    @classmethod
    def of_sweep(
        cls,
        folder: str | os.PathLike,
        metric: str,
        count: str = "used",
        unique: float | None = None,
    ) -> Table:
        """Read a sweep's finished runs.

        Args:
            folder: of the sweep.
            metric: the loss.
            count: ``"all"`` parameters, or those ``"used"`` in products.
            unique: channel-seconds of one pass over the corpus, for runs that do not say.

        Raises:
            ValueError: no sweep, or no run of it is finished.
        """
        runs, left_out = scaling.read_sweep(folder, metric)
        if not runs:
            why = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
            raise ValueError(f"{folder}: no run is finished: {why}")
        keys = sorted({key for run in runs for key in run.metrics if key != metric})
        sizes = [run.parameters - (run.looked_up if count == "used" else 0) for run in runs]
        given = [run.given.get("budget.flops") for run in runs]
        points = Points(
            np.array(sizes, float),
            *(np.array([getattr(run, k) for run in runs]) for k in ("data", "flops", "loss")),
            np.array([min(run.unique, unique or math.inf) for run in runs]),
        )
        return cls(
            what=f"the sweep {pathlib.Path(folder).resolve().name}",
            metric=metric,
            unit="channel-seconds",
            names=[run.name for run in runs],
            points=points,
            budget=None if None in given else np.array(given, float),
            modalities=np.array([run.modalities for run in runs]),
            others={k: np.array([run.metrics.get(k, np.nan) for run in runs]) for k in keys},
            parameters=np.array([run.parameters for run in runs]),
            left_out=left_out,
        )

    @classmethod
    def of_csv(cls, path: str | os.PathLike) -> Table:
        """Read a CSV; see ``launch/fit_laws.py`` for its columns.

        Raises:
            ValueError: a column or a number is missing.
        """
        with open(path, newline="") as file:
            lines = (line for line in file if not line.startswith("#"))
            rows = list(csv.DictReader(lines))
        lacking = {"params", "data", "loss"} - set(rows[0] if rows else ())
        if lacking:
            raise ValueError(f"{path} has no column {', '.join(sorted(lacking))}")

        def column(name, default=None):
            if name not in rows[0]:
                return default
            try:
                return np.array([float(row[name] or "nan") for row in rows])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, column {name}: {error}") from error

        params, data = column("params"), column("data")
        unique = column("unique", np.full(len(rows), math.inf))
        unique[np.isnan(unique)] = math.inf  # empty, as in our own runs.csv: unknown
        points = Points(params, data, column("flops", 6 * params * data), column("loss"), unique)
        return cls(
            what=f"the table {pathlib.Path(path).name}",
            metric="loss",
            unit="units of data",
            names=[row.get("name") or f"row {i + 1}" for i, row in enumerate(rows)],
            points=points,
            budget=column("budget"),
            modalities=column("modalities", np.zeros(len(rows))),
            others={k: column(k) for k in rows[0] if k.startswith("eval/")},
            parameters=column("parameters", params),
            left_out={},
        )

    def groups(self) -> np.ndarray:
        """Each run's budget, as given or else from its FLOPs."""
        return laws.budgets(self.points.flops) if self.budget is None else self.budget

    def data(self, amount: float) -> str:
        """An amount of data in words."""
        if self.unit != "channel-seconds":
            return f"{amount:.3g} {self.unit}"
        hours = amount / 3600
        return f"{hours:,.0f} channel-hours" if hours >= 10 else f"{hours:.2g} channel-hours"


@dataclasses.dataclass
class Section:
    """One law in the report.

    Attributes:
        title: of it.
        says: sentences.
        doubts: sentences on what does not hold.
        numbers: for ``laws.json``.
        figure: ``(file name, caption, draw)``, draw taking a path.
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
            section.figure[2](output / section.figure[0])
    write_whole(output / "runs.csv", _csv(of).encode())
    numbers = {
        "runs": len(of.names),
        "left_out": of.left_out,
        "metric": of.metric,
        **{law: {**s.numbers, "doubts": s.doubts} for law, s in sections.items()},
        "recommendation": {**advice.numbers, "says": advice.says, "doubts": advice.doubts},
    }
    write_whole(output / "laws.json", (json.dumps(_plain(numbers), indent=1) + "\n").encode())
    page = _page(of, sections, advice, output)
    write_whole(output / "laws.html", page.encode())
    return "\n".join([*advice.says, *(f"But: {x}" for x in advice.doubts)])


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
    sizes = lambda group: len(np.unique(points.params[group]))
    groups = of.groups()
    valleys = sum(sizes(groups == g) >= 3 for g in np.unique(groups))
    wide = lambda x, least: len(np.unique(x)) >= 3 and x.max() > least * x.min()
    # More modalities are more parameters too, which is not what such runs are about.
    alike = len(np.unique(of.modalities)) == 1
    several = alike and wide(points.params, 2) and wide(points.data, 1.5)
    found = {
        "isoflop": alike and valleys >= (3 if of.budget is None else 1),
        "parametric": several,
        "repeated": (points.data > 1.5 * points.unique).any() and several,
        "holdout": several and len(np.unique(groups)) >= 2,
        "diversity": not alike,
        "probe": bool(probes),
    }
    return [law for law, fits in found.items() if fits]


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
    section.figure = (
        "isoflop.png",
        "Loss over size for each budget",
        lambda p: _draw_iso(of, p, fit),
    )
    return section


def _parametric(of: Table) -> Section:
    fit = laws.fit_parametric(of.points)
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
    section.figure = ("parametric.png", "The formula", lambda p: _draw_parametric(of, p, fit))
    return section


def _off(fit: laws.Parametric) -> float:
    """How far a run's compute is from what is taken for it, at most."""
    said = fit.compute.flops(fit.points.params, fit.points.data)
    return float(np.abs(np.log(said / fit.points.flops)).max())


def _repeated(of: Table) -> Section:
    fit = laws.fit_constrained(of.points)
    found = fit.estimates()
    section = Section(TITLES["repeated"], fit=fit, doubts=list(fit.warnings), numbers=found)
    few, many = (_worth(fit, passes) for passes in (4, 16))
    section.says += [
        "Each further pass over the same nights is worth less than the one before. Four passes are"
        f" worth {few.value:.3g} ({few.low:.3g} to {few.high:.3g}) passes of new nights, sixteen"
        f" {many.value:.3g} ({many.low:.3g} to {many.high:.3g}); endless ones"
        f" {1 + found['R*_D'].value:.3g}.",
        "; ".join(f"{k} = {x}" for k, x in found.items() if k not in "ab") + ".",
    ]
    section.figure = ("repeated.png", "Repeated nights", lambda p: _draw_repeated(of, p, fit))
    return section


def _worth(fit, passes) -> Estimate:
    one = lambda log: 1 + np.exp(log) * -np.expm1(-(passes - 1) / np.exp(log))
    return laws.estimate(one(fit.theta[5]), one(fit.samples[:, 5]))


def _holdout(of: Table) -> Section:
    held = laws.hold_out(of.points, of.groups())
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
    section.figure = ("holdout.png", "Predicted and reached", lambda p: _draw_holdout(of, p, held))
    return section


def _diversity(of: Table) -> Section:
    fit = metric_laws.fit_diversity(of.modalities, of.points.loss)
    section = Section(TITLES["diversity"], fit=fit, doubts=list(fit.warnings))
    top = int(of.modalities.max())
    section.says.append(
        f"{of.metric} = c - a M^-b over M modalities: a = {fit.a}, b = {fit.b}, c = {fit.c}."
        f" Going from {top} to {2 * top} would change it by {fit.gain}."
    )
    section.numbers = {"a": fit.a, "b": fit.b, "c": fit.c, "gain_of_doubling": fit.gain}
    section.figure = ("diversity.png", "By modalities", lambda p: _draw_diversity(of, p, fit))
    return section


def _probe(of: Table, probes) -> Section:
    found, section = {}, Section(TITLES["probe"])
    for name in probes:
        own = np.isfinite(of.others[name])
        try:
            found[name] = metric_laws.relate(of.points.loss[own], of.others[name][own])
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
        section.figure = ("probe.png", "Probes", lambda p: _draw_probe(of, p, found))
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
    if repeated or plain:
        best = laws.allocate(repeated or plain, budget, unique)
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
        law = repeated or plain
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
        if d.value > unique:
            section.doubts.append(
                f"that is {d.value / unique:.3g} passes over the corpus, which IsoFLOP curves know"
                " nothing of"
            )
        section.numbers = {"flops": budget, "params": n, "data": d}
    else:
        best = int(np.argmin(of.points.loss))
        section.says = [
            "None: these runs carry no law of size and data. The lowest"
            f" {of.metric}, {of.points.loss[best]:.4g}, is that of {of.names[best]}."
        ]
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
    if any(not v.inside for v in getattr(iso, "valleys", ())):
        section.doubts.append("of some budgets the best size is at the edge of what was run")
    return section


def power(x: Estimate) -> str:
    """An exponent in words."""
    return f"{x.value:.2f} ({x.low:.2f} to {x.high:.2f})"


def count(x: float) -> str:
    """A number of parameters, short."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:.3g} {name}"
    return f"{x:.3g}"


def _csv(of: Table) -> str:
    file = io.StringIO()
    head = ("name", "params", "parameters", "data", "flops", "budget", "unique", "modalities")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow([*head, "loss", *of.others])
    p, groups = of.points, of.groups()
    for i, name in enumerate(of.names):
        numbers = (
            p.params,
            of.parameters,
            p.data,
            p.flops,
            groups,
            p.unique,
            of.modalities,
            p.loss,
        )
        values = [f"{x[i]:.10g}" for x in (*numbers, *of.others.values())]
        rows.writerow([name, *("" if x in ("nan", "inf") else x for x in values)])
    return file.getvalue()


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
    span = lambda x, how: f"{how(x.min())} to {how(x.max())}"
    ran = (
        f"{len(of.names)} finished runs of {text(of.what)}: {span(points.params, count)}"
        f" parameters, {span(points.data, of.data)}, {span(points.flops, '{:.3g}'.format)} FLOPs;"
        f" {text(of.metric)} {span(points.loss, '{:.3f}'.format)}."
    )
    out = [
        f"<p class=note>{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z},"
        f" {text(versions())}</p>",
        "<h2>Recommendation</h2>",
        *(f"<p><b>{text(x)}</b></p>" for x in advice.says),
        "<p>What to doubt of it:</p>" if advice.doubts else "",
        _list(advice.doubts),
        "<h2>What was run</h2>",
        f"<p>{ran} {_counted(of)} Numbers in brackets are 95 % intervals: what the fit gives when"
        " the runs' scatter falls otherwise.</p>",
    ]
    if of.left_out:
        out.append("<p>Left out:</p>" + _list([f"{k} {v}" for k, v in of.left_out.items()]))
    for section in sections.values():
        out.append(f"<h2>{text(section.title)}</h2>")
        out += [f"<p>{text(x)}</p>" for x in section.says]
        if section.figure:
            data = base64.b64encode((output / section.figure[0]).read_bytes()).decode()
            alt = text(section.figure[1])
            out.append(f"<p><img alt='{alt}' src='data:image/png;base64,{data}'></p>")
        if section.doubts:
            out.append("<p>What does not hold here, or is not known:</p>" + _list(section.doubts))
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
    out.append(f"<h2>The runs</h2><div class=scroll>{table(rows)}</div>")
    title = f"Scaling laws of {of.what}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{text(title)}</title>"
        f"<style>{STYLE}</style><h1>{text(title)}</h1>{''.join(out)}</html>\n"
    )


def _counted(of: Table) -> str:
    if of.unit != "channel-seconds":
        return "Parameters and data are as the table counts them."
    tables = " that are only looked up (embeddings) are left out"
    whole = (of.points.params == of.parameters).all()
    return (
        f"Data are counted in {of.unit}, each channel for itself."
        f" Parameters are {'all that the models have' if whole else 'counted; tables' + tables}."
    )


def _list(items) -> str:
    return "<ul>" + "".join(f"<li>{text(x)}</li>" for x in items) + "</ul>" if items else ""


# The figures.


def _shades(n: int):
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0, 0.88, max(n, 1))]


def _bars(axis, x, estimates, colour, **options):
    y = np.array([e.value for e in estimates])
    error = [
        [max(e.value - e.low, 0) for e in estimates],
        [max(e.high - e.value, 0) for e in estimates],
    ]
    axis.errorbar(x, y, error, color=colour, capsize=3, linewidth=1.2, **options)


def _draw_iso(of: Table, path, fit: isoflop.IsoFlop):
    figure, (left, middle, right) = new_figure(1, 3, (15, 4.8))
    points, groups = of.points, of.groups()
    for valley, colour in zip(fit.valleys, _shades(len(fit.valleys))):
        own = groups == valley.flops
        left.plot(points.params[own], points.loss[own], "o", color=colour, markersize=5)
        x = np.geomspace(valley.low / 1.15, valley.high * 1.15, 100)
        label = f"{valley.flops:.3g} FLOPs"
        left.plot(x, np.polyval(valley.coefficients, np.log(x)), color=colour, label=label)
        if valley.inside:
            n = valley.params
            low = float(np.polyval(valley.coefficients, np.log(n.value)))
            inside = [max(n.low, x[0]), min(n.high, x[-1])]
            left.plot(inside, [low, low], color=colour, linewidth=1, alpha=0.6)
            left.plot(n.value, low, "D", color=ORANGE, markersize=9, fillstyle="none", mew=2)
    left.set(xscale="log", xlabel="parameters", ylabel=of.metric)
    left.set_title("loss by size, one curve a budget; diamonds: lowest", fontsize=10)
    flops = np.array([v.flops for v in fit.valleys])
    x = np.geomspace(flops.min() / 1.5, flops.max() * 10, 60)
    for axis, name, law, label in (
        (middle, "params", fit.params, "best size, parameters"),
        (right, "data", fit.data, f"best amount of data, {of.unit}"),
    ):
        _bars(axis, flops, [getattr(v, name) for v in fit.valleys], BLUE, fmt="o", label="budgets")
        if law:
            line = [law.at(c) for c in x]
            told = f"C^{law.exponent.value:.2f}"
            axis.plot(x, [e.value for e in line], color=BLUE, linewidth=1.2, label=told)
            band = ([e.low for e in line], [e.high for e in line])
            axis.fill_between(x, *band, color=BLUE, alpha=0.15, linewidth=0, label="95 %")
        axis.set(xscale="log", yscale="log", xlabel="compute C, FLOPs", ylabel=label)
        axis.set_title(label.split(",")[0] + " by compute", fontsize=10)
        axis.legend(fontsize=8, frameon=False, loc="upper left")
    _below(left, len(fit.valleys))
    _finish(figure, path, left, middle, right)


def _below(axis, entries):
    """A legend under the axis, where it hides no point."""
    axis.legend(
        fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14),
        ncols=min(max(entries, 1), 3),
    )  # fmt: skip


def _finish(figure, path, *axes):
    for axis in axes:
        axis.grid(alpha=0.25)
    save_figure(figure, path)


def _draw_parametric(of: Table, path, fit: laws.Parametric):
    figure, (left, right) = new_figure(1, 2, (12, 5))
    _reached(left, of, fit)
    points, compute = of.points, fit.compute
    n = np.geomspace(points.params.min() / 2, points.params.max() * 3, 120)
    d = np.geomspace(points.data.min() / 2, points.data.max() * 3, 120)
    grid_n, grid_d = np.meshgrid(n, d)
    loss = np.exp(laws.chinchilla(grid_n.ravel(), grid_d.ravel())(fit.theta[None])[0][0])
    drawn = right.contour(n, d, loss.reshape(grid_n.shape), 14, cmap="viridis_r", linewidths=0.9)
    right.clabel(drawn, fontsize=7, fmt="%.2f")
    right.plot(points.params, points.data, "o", color="black", markersize=4, label="runs")
    path_c = np.geomspace(points.flops.min() / 10, points.flops.max() * 10, 50)
    best_n = np.array(
        [np.exp(laws.log_best_params(fit.theta[None], c, compute)[0]) for c in path_c]
    )
    best_d = compute.data(best_n, path_c)
    if np.isfinite(best_n).all():
        right.plot(best_n, best_d, "--", color=ORANGE, linewidth=2, label="best for its compute")
    right.set(xscale="log", yscale="log", xlabel="parameters N", ylabel=f"data D, {of.unit}")
    right.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    right.set_title("contours: loss by the formula", fontsize=10)
    _below(right, 2)
    _finish(figure, path, left, right)


def _reached(axis, of: Table, fit):
    fitted = np.exp(np.log(of.points.loss) - fit.residuals)
    ends = [min(fitted.min(), of.points.loss.min()), max(fitted.max(), of.points.loss.max())]
    axis.plot(ends, ends, color=GREY, linewidth=1, label="equal")
    axis.plot(fitted, of.points.loss, "o", color=BLUE, markersize=5, label="runs")
    axis.set(xlabel=f"{of.metric} by the formula", ylabel=f"{of.metric} reached")
    axis.set_title("does the formula describe the runs?", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_repeated(of: Table, path, fit):
    figure, (left, right) = new_figure(1, 2, (12, 4.8))
    _reached(left, of, fit)
    top = max(4.0, 2 * float((of.points.data / of.points.unique).max()))
    passes = np.linspace(1, top, 80)
    worth = [_worth(fit, p) for p in passes]
    right.plot(passes, passes, color=GREY, linewidth=1, label="if all were new")
    right.plot(passes, [w.value for w in worth], color=BLUE, label="what they are worth")
    band = ([w.low for w in worth], [w.high for w in worth])
    right.fill_between(passes, *band, color=BLUE, alpha=0.15, linewidth=0, label="95 %")
    seen = of.points.data / of.points.unique
    for x in np.unique(np.round(seen[seen > 1], 3)):
        right.axvline(x, ymax=0.03, color="black", linewidth=1)
    right.set_ylim(0, 1.25 * worth[-1].high)
    right.set(xlabel="passes over the same nights (ticks: runs)", ylabel="passes of new nights")
    right.set_title("what repeated nights are worth", fontsize=10)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    _finish(figure, path, left, right)


def _draw_holdout(of: Table, path, held: laws.HeldOut):
    figure, (axis,) = new_figure(1, 1, (7, 4.8))
    _bars(axis, held.params, held.predicted, GREY, fmt="s", label="predicted, 95 %")
    axis.plot(held.params, held.reached, "o", color=BLUE, label="reached")
    axis.set(xscale="log", xlabel="parameters", ylabel=of.metric)
    axis.set_title(f"the runs of {held.flops:.3g} FLOPs, from all smaller ones", fontsize=10)
    _below(axis, 2)
    _finish(figure, path, axis)


def _draw_diversity(of: Table, path, fit: metric_laws.Diversity):
    figure, (axis,) = new_figure(1, 1, (7, 4.8))
    top = of.modalities.max()
    x = np.linspace(max(of.modalities.min(), 1), 1.5 * top, 100)
    at = lambda a, b, c: c - a * x**-b
    bands = np.array([at(*sample) for sample in fit.samples])
    band = np.percentile(bands, [2.5, 97.5], axis=0)
    axis.fill_between(x, *band, color=GREEN, alpha=0.15, linewidth=0, label="95 %")
    told = f"c - a M^-b, b = {fit.b.value:.2f}"
    axis.plot(x, at(fit.a.value, fit.b.value, fit.c.value), color=GREEN, label=told)
    axis.plot(of.modalities, of.points.loss, "o", color=BLUE, label="runs")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.axvline(top, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xlabel="modalities M (right of the dotted line: not run)", ylabel=of.metric)
    _below(axis, 3)
    _finish(figure, path, axis)


def _draw_probe(of: Table, path, found: dict[str, metric_laws.Relation]):
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = new_figure(rows, columns, (5 * columns, 4.4 * rows))
    for axis, (name, relation) in zip(axes, found.items()):
        band = (relation.low, relation.high)
        axis.fill_between(relation.x, *band, color=BLUE, alpha=0.15, linewidth=0, label="95 %")
        axis.plot(relation.x, relation.y, color=BLUE, label=relation.form)
        axis.plot(of.points.loss, of.others[name], "o", color="black", markersize=4, label="runs")
        axis.set(xlabel=of.metric, ylabel=name.removeprefix("eval/"))
        axis.set_title(f"rank correlation {relation.rank.value:.2f}", fontsize=10)
        _below(axis, 3)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    _finish(figure, path, *axes[: len(found)])
