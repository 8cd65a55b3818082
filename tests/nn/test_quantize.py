"""The residual quantiser: its codes, its codebooks' life, its gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hypnos_jax import sharding
from hypnos_jax.nn.quantize import ResidualQuantizer, kmeans, rotate

N, C = 96, 4


def points(seed=0, n=N):
    return jax.random.normal(jax.random.key(seed), (n, C))


@functools.partial(jax.jit, static_argnums=0)
def follow(quantizer, vq, x, weight, seed):
    """One training forward: what it returns, and the codebooks after it."""
    rngs = {"vq": jax.random.key(seed)}
    out, updated = quantizer.apply({"vq": vq}, x, weight, train=True, rngs=rngs, mutable=["vq"])
    return out, updated["vq"]


@functools.partial(jax.jit, static_argnums=0)
def read(quantizer, vq, x):
    """What it returns in evaluation."""
    return quantizer.apply({"vq": vq}, x)


@functools.cache
def fresh(quantizer):
    init = jax.jit(lambda key, x: nn.unbox(quantizer.init(key, x)))
    return init(jax.random.key(0), points())["vq"]


@functools.cache
def trained(quantizer, batches=8, n=N):
    vq = fresh(quantizer)
    for i in range(batches):
        _, vq = follow(quantizer, vq, points(i, n), jnp.ones(n), i)
    return vq


def words(vq):
    return np.asarray(vq["sums"]) / np.maximum(np.asarray(vq["counts"]), 1e-5)[..., None]


def test_codes_are_the_nearest_codewords_of_each_residual():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq = trained(quantizer)
    x = np.asarray(points(99))
    out = read(quantizer, vq, x)
    left = x.copy()
    total = np.zeros_like(x)
    commitment = np.zeros(N)
    for level in range(3):
        for n in range(N):
            distances = [np.sum((left[n] - word) ** 2) for word in words(vq)[level]]
            best = int(np.argmin(distances))
            assert out.codes[n, level] == best
            commitment[n] += distances[best] / C / 3
            total[n] += words(vq)[level][best]
            left[n] -= words(vq)[level][best]
    np.testing.assert_allclose(out.values, total, atol=1e-5)
    np.testing.assert_allclose(out.commitment, commitment, atol=1e-5)
    again = quantizer.apply({"vq": vq}, out.codes, method="dequantize")
    np.testing.assert_allclose(again, out.values, atol=1e-5)


def test_every_level_leaves_less():
    vq = trained(ResidualQuantizer(C, 4, 8))
    x = points(99)
    sizes = []
    for levels in range(1, 5):
        part = {name: a[:levels] if a.ndim else a for name, a in vq.items()}
        out = read(ResidualQuantizer(C, levels, 8), part, x)
        sizes.append(float(jnp.linalg.norm(x - out.values)))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.6 * sizes[0]


def test_a_level_starts_in_a_batch_after_the_one_before_it():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq = fresh(quantizer)
    assert not vq["initialised"].any()
    for i in range(4):
        out, vq = follow(quantizer, vq, points(i), jnp.ones(N), i)
        assert vq["initialised"].tolist() == [level <= i for level in range(3)]
        assert not np.asarray(out.codes)[:, i + 1 :].any()  # not there yet: code 0
    assert int(vq["step"]) == 4


def test_kmeans_finds_separate_clusters():
    centres = np.array([[0, 0, 9, 0], [9, 0, 0, 0], [0, -9, 0, 0], [0, 0, 0, 0]], np.float32)
    x = centres[np.arange(N) % 4] + 0.1 * np.asarray(points())
    used = jnp.ones(N).at[:8].set(0)
    x[:8] = 1000.0  # not used: must not attract a cluster
    size, total = kmeans(jax.random.key(3), jnp.asarray(x), used, 4, 50)
    found = np.asarray(total / size[:, None])
    order = np.argmin(np.linalg.norm(found[:, None] - centres, axis=-1), 1)
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(found, centres[order], atol=0.1)
    np.testing.assert_allclose(size, 22)


def test_running_means_follow_by_the_decay():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq = trained(quantizer, 3)
    x = np.asarray(points(5))
    out, after = follow(quantizer, vq, x, jnp.ones(N), 5)
    code = np.asarray(out.codes)[:, 0]
    for v in range(8):
        count, total = np.sum(code == v), x[code == v].sum(0)
        np.testing.assert_allclose(
            after["counts"][0, v], 0.99 * vq["counts"][0, v] + 0.01 * count, rtol=1e-5
        )
        np.testing.assert_allclose(
            after["sums"][0, v], 0.99 * vq["sums"][0, v] + 0.01 * total, rtol=1e-4, atol=1e-4
        )
        assert after["usage"][0, v] == vq["usage"][0, v] + count


def test_a_dead_code_is_revived_within_five_steps():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq = trained(quantizer, 6)
    counts, sums = vq["counts"].at[1, 3].set(1e-4), vq["sums"].at[1, 3].set(1e-4 * 1e6)
    vq = {**vq, "counts": counts, "sums": sums}  # far from everything
    far = []
    for i in range(5):
        _, vq = follow(quantizer, vq, points(i), jnp.ones(N), i)
        far.append(np.abs(words(vq)[1, 3]).max() > 100)
    assert far[0] and not far[-1]
    assert vq["counts"][1, 3] > 0.5 * vq["counts"][1].mean()


def test_what_does_not_count_changes_nothing():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq = trained(quantizer, 3)
    x = points(7)
    weight = (jnp.arange(N) % 3 > 0).astype(jnp.float32)
    other = jnp.where(weight[:, None] > 0, x, 1e4)
    _, after = follow(quantizer, vq, x, weight, 1)
    _, same = follow(quantizer, vq, other, weight, 1)
    jax.tree.map(np.testing.assert_array_equal, after, same)
    for state in (vq, fresh(quantizer)):  # a batch of padding alone
        _, still = follow(quantizer, state, x, jnp.zeros(N), 1)
        jax.tree.map(np.testing.assert_array_equal, still, state)


def test_gradients_pass_straight_through_the_sum():
    quantizer = ResidualQuantizer(C, 3, 8)
    vq, x, pull = trained(quantizer), points(3), points(4)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(read(quantizer, vq, x).values * pull)))(x)
    np.testing.assert_allclose(grad, pull, atol=1e-6)


def test_commitment_pulls_the_input_towards_its_codeword():
    vq, x = trained(ResidualQuantizer(C, 3, 8)), points(3)
    vq = {name: a[:1] if a.ndim else a for name, a in vq.items()}
    quantizer = ResidualQuantizer(C, 1, 8)
    out = read(quantizer, vq, x)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(read(quantizer, vq, x).commitment)))(x)
    np.testing.assert_allclose(grad, 2 * (x - out.values) / C, atol=1e-5)


def test_the_rotation_turns_gradients_with_the_input():
    x, onto = points(1), points(2)
    one = jax.jacobian(lambda x, q: rotate(x[None], q[None])[0])
    jacobian = jax.jit(jax.vmap(one))(x, onto)
    np.testing.assert_allclose(rotate(x, onto), onto, atol=1e-5)
    # The constant map takes the input onto the codeword, and is a rotation times a scale.
    np.testing.assert_allclose(jnp.einsum("nij,nj->ni", jacobian, x), onto, atol=1e-4)
    scale = jnp.linalg.norm(onto, axis=-1) / jnp.linalg.norm(x, axis=-1)
    product = jnp.einsum("nij,nkj->nik", jacobian, jacobian) / scale[:, None, None] ** 2
    np.testing.assert_allclose(product, np.tile(np.eye(C), (N, 1, 1)), atol=1e-4)
    vq = trained(ResidualQuantizer(C, 3, 8))
    turned = read(ResidualQuantizer(C, 3, 8, rotation=True), vq, x)
    straight = read(ResidualQuantizer(C, 3, 8), vq, x)
    np.testing.assert_allclose(turned.values, straight.values, atol=1e-5)


def test_dropout_uses_the_first_levels_only():
    quantizer = ResidualQuantizer(C, 4, 8, dropout=1.0)
    vq = trained(ResidualQuantizer(C, 4, 8))
    depths = set()
    for seed in range(12):
        out, after = follow(quantizer, vq, points(seed), jnp.ones(N), seed)
        used = np.asarray(after["usage"] - vq["usage"]).sum(-1) > 0
        depth = int(used.sum())
        assert used.tolist() == [level < depth for level in range(4)]
        assert not np.asarray(out.codes)[:, depth:].any()
        depths.add(depth)
    assert min(depths) >= 1 and len(depths) > 1
    out = read(quantizer, vq, points())  # never in evaluation
    assert np.asarray(out.codes)[:, 3].any()


def test_one_device_equals_a_mesh():
    quantizer = ResidualQuantizer(C, 3, 8)
    mesh = sharding.make_mesh(data=4, fsdp=2)
    place = NamedSharding(mesh, P(("data", "fsdp")))
    one, many = fresh(quantizer), fresh(quantizer)
    weight = (jnp.arange(N) % 5 > 0).astype(jnp.float32)
    for i in range(7):  # through k-means of all levels and a search for dead codes
        out, one = follow(quantizer, one, points(i), weight, i)
        x, w = jax.device_put((points(i), weight), place)
        spread, many = follow(quantizer, many, x, w, i)
        np.testing.assert_array_equal(out.codes, spread.codes)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, one, many)


def test_fewer_points_than_codes_still_start():
    quantizer = ResidualQuantizer(C, 2, 32)
    vq, x = fresh(quantizer), points(0, 8)
    for i in range(4):
        out, vq = follow(quantizer, vq, x, jnp.ones(8), i)
    assert vq["initialised"].all()
    np.testing.assert_allclose(out.values, x, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_quantising_is_float32(dtype):
    quantizer = ResidualQuantizer(C, 3, 8)
    out = read(quantizer, trained(quantizer), points().astype(dtype))
    assert out.values.dtype == jnp.float32 and out.codes.dtype == jnp.int32
