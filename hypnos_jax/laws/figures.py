"""The figures of a report on laws."""

from __future__ import annotations

import numpy as np

from hypnos_jax.laws import isoflop, metric, parametric
from hypnos_jax.laws.runs import Table, count
from hypnos_jax.reports.figures import BLUE, GREEN, GREY, ORANGE, new_figure, save_figure


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


def draw_isoflop(of: Table, path, fit: isoflop.IsoFlop):
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
    _sizes(left.xaxis)
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
    _sizes(middle.yaxis)
    _below(left, len(fit.valleys))
    _finish(figure, path, left, middle, right)


def _sizes(axis):
    """An axis of parameters, told as in the text."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda x, _: count(x))
    axis.set_minor_formatter(ticker.NullFormatter())


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


def draw_parametric(of: Table, path, fit: parametric.Parametric):
    figure, (left, right) = new_figure(1, 2, (12, 5))
    _reached(left, of, fit)
    points, compute = of.points, fit.compute
    n = np.geomspace(points.params.min() / 2, points.params.max() * 3, 120)
    d = np.geomspace(points.data.min() / 2, points.data.max() * 3, 120)
    grid_n, grid_d = np.meshgrid(n, d)
    loss = np.exp(parametric.chinchilla(grid_n.ravel(), grid_d.ravel())(fit.theta[None])[0][0])
    drawn = right.contour(n, d, loss.reshape(grid_n.shape), 14, cmap="viridis_r", linewidths=0.9)
    right.clabel(drawn, fontsize=7, fmt="%.2f")
    right.plot(points.params, points.data, "o", color="black", markersize=4, label="runs")
    path_c = np.geomspace(points.flops.min() / 10, points.flops.max() * 10, 50)
    best_n = np.array(
        [np.exp(parametric.log_best_params(fit.theta[None], c, compute)[0]) for c in path_c]
    )
    best_d = compute.data(best_n, path_c)
    if np.isfinite(best_n).all():
        right.plot(best_n, best_d, "--", color=ORANGE, linewidth=2, label="best for its compute")
    right.set(xscale="log", yscale="log", xlabel="parameters N", ylabel=f"data D, {of.unit}")
    _sizes(right.xaxis)
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


def draw_repeated(of: Table, path, fit):
    figure, (left, right) = new_figure(1, 2, (12, 4.8))
    _reached(left, of, fit)
    top = max(4.0, 2 * float((of.points.data / of.points.unique).max()))
    passes = np.linspace(1, top, 80)
    worth = [parametric.worth(fit, p) for p in passes]
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


def draw_holdout(of: Table, path, held: parametric.HeldOut):
    figure, (axis,) = new_figure(1, 1, (7, 4.8))
    _bars(axis, held.params, held.predicted, GREY, fmt="s", label="predicted, 95 %")
    axis.plot(held.params, held.reached, "o", color=BLUE, label="reached")
    axis.set(xscale="log", xlabel="parameters", ylabel=of.metric)
    _sizes(axis.xaxis)
    axis.set_title(f"the runs of {held.flops:.3g} FLOPs, from all smaller ones", fontsize=10)
    _below(axis, 2)
    _finish(figure, path, axis)


def draw_diversity(of: Table, path, fit: metric.Diversity):
    figure, (axis,) = new_figure(1, 1, (7, 4.8))
    top = of.modalities.max()
    x = np.linspace(max(of.modalities.min(), 1), 1.5 * top, 100)

    def at(a, b, c):
        return c - a * x**-b

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


def draw_probe(of: Table, path, found: dict[str, metric.Relation]):
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
