"""The optimizer: AdamW behind a clip, a warm-up and a cosine; decay on matrices only; averages."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from hypnos_jax import param_paths


def make_schedule(
    *,
    steps: int,
    learning_rate: float = 1e-3,
    warmup_steps: int = 0,
    end_scale: float = 0.1,
    decay: str = "cosine",
    from_zero: bool = False,
) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    A straight line over ``warmup_steps``, then a half cosine to ``end_scale`` times the
    peak at the last step, or the peak throughout (``decay="constant"``).

    Args:
        steps: the whole run, warm-up included.
        learning_rate: the peak.
        warmup_steps: length of the warm-up; at most ``steps``.
        end_scale: final rate / peak, for the cosine.
        decay: ``"cosine"`` or ``"constant"``.
        from_zero: begin the line at 0, so that the first step moves nothing, as sleep2vec's code
            does; else at ``learning_rate / (warmup_steps + 1)``.

    Raises:
        ValueError: another ``decay``.
    """
    warmup = min(warmup_steps, steps)
    first = 0.0 if from_zero else learning_rate / (warmup + 1)
    rise = optax.linear_schedule(first, learning_rate, max(warmup, 1))
    if decay == "cosine":
        rest = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), end_scale)
    elif decay == "constant":
        rest = optax.constant_schedule(learning_rate)
    else:
        raise ValueError(f"config.optim.decay={decay!r}; it is 'cosine' or 'constant'")
    return optax.join_schedules([rise, rest], [warmup])


def make_optimizer(
    schedule: optax.Schedule,
    matrices,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    freeze: Sequence[str] = (),
    multipliers: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """Return AdamW (arXiv:1711.05101) after a clip by the global norm.

    Parameters that are frozen have no moments and are never updated.

    Args:
        schedule: step -> learning rate.
        matrices: a tree of bools like the parameters: True where weight decay applies.
        b1, b2, eps: Adam's moments.
        weight_decay: decoupled, times the learning rate; on matrices, not on biases, norms, scales.
        clip_norm: the largest global gradient norm; 0 for none.
        freeze: patterns of what to leave as it is, such as ``("towers", "!*/lora_?")``; see
            ``frozen``. Those of other collections are the train step's.
        multipliers: (pattern, factor of the learning rate) pairs; the last that names a parameter
            decides.

    Raises:
        ValueError: a pattern that names no parameter.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    steps += [
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay, matrices),
        optax.scale_by_learning_rate(schedule),
    ]
    if multipliers:
        factors = jax.tree.map(lambda _: 1.0, matrices)
        for pattern, factor in multipliers:
            named = param_paths.matching(matrices, (pattern,), "config.optim.multipliers")
            factors = jax.tree.map(lambda hit, old, new=factor: new if hit else old, named, factors)
        steps.append(
            optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))
        )
    patterns = param_paths.by_collection(freeze).get("params", ())
    if not patterns:
        return optax.chain(*steps)
    fixed = param_paths.matching(matrices, patterns, "config.optim.freeze")
    labels = jax.tree.map(lambda fixed: "frozen" if fixed else "trained", fixed)
    if "trained" not in jax.tree.leaves(labels):
        raise ValueError(f"config.optim.freeze={tuple(freeze)} leaves nothing to train")
    return optax.multi_transform(
        {"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}, labels
    )


def frozen(variables: dict, freeze: Sequence[str]) -> dict:
    """Return True for each array that training leaves as it is, in a tree like ``variables``.

    Args:
        variables: name of a collection -> tree, ``"params"`` among them.
        freeze: patterns of parameters (see ``hypnos_jax.param_paths``), or of another collection
            with its name and a colon before them, such as ``"batch_stats:towers/*"``.

    Raises:
        ValueError: a pattern names nothing, or there is no such collection.
    """
    patterns = param_paths.by_collection(freeze)
    if unknown := sorted(patterns.keys() - variables.keys()):
        raise ValueError(
            f"config.optim.freeze: there is no collection {unknown[0]!r}; there are"
            f" {sorted(variables)}"
        )
    out = {}
    for name, tree in variables.items():
        where = "config.optim.freeze" + ("" if name == "params" else f", collection {name!r}")
        out[name] = param_paths.matching(tree, patterns.get(name, ()), where)
    return out


def make_averaging(
    *, steps: int, ema_decay: float = 0.0, ema_schedule: str = "warmup"
) -> optax.Schedule | None:
    """Return the decay of the averages as a function of the step, or None for no averages.

    Args:
        steps: the whole run.
        ema_decay: the decay; 0 for no average.
        ema_schedule: ``"warmup"`` lets the average forget the initial parameters,
            ``min(decay, (1 + step) / (10 + step))``; ``"cosine"`` rises from the decay at step 0 to
            1 at the last, as sleep2vec's code does (arXiv 2602.13857).

    Raises:
        ValueError: another ``ema_schedule``.
    """
    if ema_schedule not in ("warmup", "cosine"):
        raise ValueError(f"config.optim.ema_schedule={ema_schedule!r}; it is 'warmup' or 'cosine'")
    if not ema_decay:
        return None
    if ema_schedule == "warmup":
        return lambda step: jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    return lambda step: 1 - (1 - ema_decay) * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
