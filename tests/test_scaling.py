"""Costs that are counted before anything runs, and laws that are known as they were planted."""

from tiny_models import MODALITIES, rq_config

from hypnos_jax import scaling


def test_a_cost_needs_no_data_and_no_device():
    cost = scaling.cost(rq_config())
    groups = {m["group"]: m["levels"] * m["codes"] for m in MODALITIES}
    tables = (16 + 8) * sum(groups.values())  # of the backbone and of the depth transformer
    assert tables <= cost.looked_up < cost.parameters / 2
    assert cost.channel_seconds_per_step == 2 * 64 * len(MODALITIES)
