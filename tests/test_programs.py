"""Programs that people port, whole, with PyTorch as the oracle on copied weights and inputs.

Each program is a loss on a dict of parameters, jitted, beside the PyTorch code it stands for; the
weights are laid out as PyTorch lays them out, so gradients compare without transposing.

Tolerance: `closeness.TOLERANCE`, 1e-5 of an array's largest entry. Both sides add the same float32
terms in different orders. A sum of n terms is off by about sqrt(n) units in the last place, 6e-8;
the longest here have 256 terms and a gradient chains some twenty sums, so 6e-8 * 16 * sqrt(20) =
4e-6. The tests that something *matters* ask for a difference of at least 1e-2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, assert_same
from jax import lax

import funcgrad as fg


@pytest.fixture(autouse=True)
def full_precision():
    # On GPU and TPU float32 matrix products keep fewer bits unless told otherwise.
    with jax.default_matmul_precision("float32"):
        yield


def floats(rng, *shape, scale=1.0):
    return rng.normal(scale=scale, size=shape).astype(np.float32)


def layer(rng, width_in, width_out):
    """The weights of `torch.nn.Linear(width_in, width_out)`."""
    return {
        "weight": floats(rng, width_out, width_in, scale=width_in**-0.5),
        "bias": floats(rng, width_out, scale=0.1),
    }


def linear(params, x):
    return x @ params["weight"].T + params["bias"]


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
    return -jnp.mean(chosen)


def same(x):
    return x


def far_apart(got, want):
    """Whether two pytrees differ by more than 1% of the larger numbers, which rounding cannot."""
    gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), got, want)
    sizes = jax.tree.map(lambda b: jnp.max(jnp.abs(b)), want)
    return max(jax.tree.leaves(gaps)) > 0.01 * max(jax.tree.leaves(sizes))


def compiled_cost(fun, *shapes):
    compiled = jax.jit(fun).lower(*shapes).compile()
    memory = compiled.memory_analysis()
    return {
        "flops": compiled.cost_analysis()["flops"],
        "temporary": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes,
    }


class Oracle:
    """PyTorch, with the few lines that every program needs."""

    def __init__(self, torch):
        self.torch = torch
        self.F = torch.nn.functional

    def params(self, tree):
        """Copies of the weights as leaves that take gradients."""
        return jax.tree.map(lambda leaf: self.torch.tensor(leaf, requires_grad=True), tree)

    def data(self, *arrays):
        """Copies of the inputs; integers as int64, as PyTorch wants indices."""
        tensors = [self.torch.tensor(a) for a in arrays]
        return [t if t.is_floating_point() else t.long() for t in tensors]

    def linear(self, params, x):
        return self.F.linear(x, params["weight"], params["bias"])

    @staticmethod
    def kept(tensor):
        return fg.Retained(tensor, tensor.grad)

    @staticmethod
    def grads(params):
        return jax.tree.map(lambda leaf: leaf.grad, params)

    @staticmethod
    def assert_agrees(got, want):
        assert_close(got, jax.tree.map(lambda leaf: leaf.detach().numpy(), want))


@pytest.fixture
def oracle(torch):
    return Oracle(torch)


# WGAN with gradient penalty: the norm of a gradient is part of the loss.


def critic(params, x):
    return linear(params["score"], jnp.tanh(linear(params["hidden"], x)))[:, 0]


def wgan_loss(params, real, fake, mix, through=same):
    between = fg.retain_grad(mix * real + (1 - mix) * fake, "between")
    slopes = fg.grad(critic, argnums=1, gradient=jnp.ones(len(real)))(params, between)
    slopes = fg.retain_grad(through(slopes), "slopes")
    penalty = jnp.mean((jnp.linalg.norm(slopes, axis=1) - 1) ** 2)
    return jnp.mean(critic(params, fake)) - jnp.mean(critic(params, real)) + 10 * penalty


def wgan_inputs():
    rng = np.random.default_rng(1)
    params = {"hidden": layer(rng, 8, 32), "score": layer(rng, 32, 1)}
    mix = rng.uniform(size=(16, 1)).astype(np.float32)
    return params, floats(rng, 16, 8), floats(rng, 16, 8) + np.float32(0.5), mix


@pytest.mark.slow
def test_wgan_gradient_penalty_gives_pytorchs_loss_gradients_and_gradient_of_the_inner_gradient(
    oracle,
):
    params, *inputs = wgan_inputs()
    got = jax.jit(fg.value_and_grad(wgan_loss, retain=...))(params, *inputs)

    torch, theirs = oracle.torch, oracle.params(params)
    real, fake, mix = oracle.data(*inputs)

    def critic(x):
        return oracle.linear(theirs["score"], torch.tanh(oracle.linear(theirs["hidden"], x)))[:, 0]

    between = (mix * real + (1 - mix) * fake).requires_grad_()
    scores = critic(between)
    (slopes,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
    slopes.retain_grad()
    penalty = ((slopes.norm(2, dim=1) - 1) ** 2).mean()
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
    loss.backward()
    kept = {"between": oracle.kept(between), "slopes": oracle.kept(slopes)}
    oracle.assert_agrees(got, (loss, oracle.grads(theirs), kept))


@pytest.mark.slow
def test_wgan_penalty_reaches_the_critic_only_through_the_second_derivative():
    params, *inputs = wgan_inputs()
    real, fake, _ = inputs
    whole = jax.jit(fg.grad(wgan_loss))(params, *inputs)
    without = jax.jit(fg.grad(functools.partial(wgan_loss, through=fg.detach)))(params, *inputs)
    distance = jax.grad(lambda p: jnp.mean(critic(p, fake)) - jnp.mean(critic(p, real)))
    assert far_apart(without, whole)
    assert_close(without, jax.jit(distance)(params))


@pytest.mark.slow
def test_wgan_penalty_agrees_with_nested_jax_grad():
    params, *inputs = wgan_inputs()

    def plain(params, real, fake, mix):
        slopes = jax.grad(lambda x: jnp.sum(critic(params, x)))(mix * real + (1 - mix) * fake)
        penalty = jnp.mean((jnp.linalg.norm(slopes, axis=1) - 1) ** 2)
        return jnp.mean(critic(params, fake)) - jnp.mean(critic(params, real)) + 10 * penalty

    got = jax.jit(fg.value_and_grad(wgan_loss))(params, *inputs)
    assert_close(got, jax.jit(jax.value_and_grad(plain))(params, *inputs))


# Domain-adversarial training (DANN): the domain head learns, the features unlearn.


def dann_loss(params, x, labels, domains, strength):
    features = fg.retain_grad(jnp.tanh(linear(params["features"], x)), "features")
    to_domain = fg.register_hook(features, lambda g: -strength * g)
    return cross_entropy(linear(params["label"], features), labels) + cross_entropy(
        linear(params["domain"], to_domain), domains
    )


def dann_inputs():
    rng = np.random.default_rng(2)
    params = {
        "features": layer(rng, 10, 24),
        "label": layer(rng, 24, 5),
        "domain": layer(rng, 24, 2),
    }
    labels = rng.integers(5, size=32).astype(np.int32)
    domains = np.repeat(np.arange(2, dtype=np.int32), (12, 20))
    return params, floats(rng, 32, 10), labels, domains


@pytest.mark.slow
def test_gradient_reversal_by_hook_agrees_with_pytorchs_custom_function(oracle):
    params, *inputs = dann_inputs()
    got = jax.jit(fg.value_and_grad(dann_loss, retain=...))(params, *inputs, 0.7)

    class Reverse(oracle.torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return -0.7 * g

    theirs = oracle.params(params)
    x, labels, domains = oracle.data(*inputs)
    features = oracle.torch.tanh(oracle.linear(theirs["features"], x))
    features.retain_grad()
    loss = oracle.F.cross_entropy(oracle.linear(theirs["label"], features), labels)
    reversed_features = Reverse.apply(features)
    loss = loss + oracle.F.cross_entropy(
        oracle.linear(theirs["domain"], reversed_features), domains
    )
    loss.backward()
    oracle.assert_agrees(got, (loss, oracle.grads(theirs), {"features": oracle.kept(features)}))


@pytest.mark.slow
def test_gradient_reversal_turns_the_domain_part_of_the_features_and_nothing_else():
    gradients = jax.jit(fg.grad(dann_loss))
    turned, cut, straight = (gradients(*dann_inputs(), s) for s in (1.0, 0.0, -1.0))
    assert far_apart(turned["features"], straight["features"])
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, turned["features"], straight["features"])
    assert_close(halfway, cut["features"])
    assert_close((turned["label"], turned["domain"]), (straight["label"], straight["domain"]))


# Grad-CAM: the value and the gradient of one activation.


def cnn_scores(params, images):
    """Class scores of NCHW images."""
    h = lax.conv(images, params["conv1"], (1, 1), "SAME")
    h = jax.nn.relu(h + params["bias1"][:, None, None])
    n, c, height, width = h.shape
    h = jnp.mean(h.reshape(n, c, height // 2, 2, width // 2, 2), axis=(3, 5))
    h = lax.conv(h, params["conv2"], (1, 1), "SAME")
    h = fg.retain_grad(jax.nn.relu(h + params["bias2"][:, None, None]), "maps")
    return linear(params["score"], jax.nn.relu(linear(params["dense"], h.reshape(n, -1))))


def grad_cam(params, images, labels):
    def chosen(params):
        return jnp.sum(jnp.take_along_axis(cnn_scores(params, images), labels[:, None], axis=1))

    _, retained = fg.grad(chosen, retain="maps", requires_grad=False)(params)
    maps = retained["maps"]
    weights = jnp.mean(maps.grad, axis=(2, 3), keepdims=True)
    return maps, jax.nn.relu(jnp.sum(weights * maps.value, axis=1))


def cnn_inputs():
    rng = np.random.default_rng(3)
    params = {
        "conv1": floats(rng, 6, 3, 3, 3, scale=0.2),
        "bias1": floats(rng, 6, scale=0.1),
        "conv2": floats(rng, 8, 6, 3, 3, scale=0.15),
        "bias2": floats(rng, 8, scale=0.1),
        "dense": layer(rng, 8 * 4 * 4, 16),
        "score": layer(rng, 16, 4),
    }
    return params, floats(rng, 5, 3, 8, 8), np.array([0, 0, 3, 3, 3], np.int32)


@pytest.mark.slow
def test_grad_cam_gives_pytorchs_activation_its_gradient_and_the_heat_map(oracle):
    params, *inputs = cnn_inputs()
    maps, heat = jax.jit(grad_cam)(params, *inputs)

    F, theirs = oracle.F, oracle.params(params)
    images, labels = oracle.data(*inputs)
    h = F.relu(F.conv2d(images, theirs["conv1"], theirs["bias1"], padding=1))
    h = F.relu(F.conv2d(F.avg_pool2d(h, 2), theirs["conv2"], theirs["bias2"], padding=1))
    h.retain_grad()
    scores = oracle.linear(
        theirs["score"], F.relu(oracle.linear(theirs["dense"], h.flatten(start_dim=1)))
    )
    scores.gather(1, labels[:, None]).sum().backward()
    weights = h.grad.mean(dim=(2, 3), keepdim=True)
    want = F.relu((weights * h).sum(dim=1))
    assert oracle.torch.all(want.amax(dim=(1, 2)) > 0)  # no heat map is empty
    oracle.assert_agrees((maps, heat), (oracle.kept(h), want))


@pytest.mark.slow
def test_grad_cam_depends_on_the_class_that_is_asked_for():
    params, images, labels = cnn_inputs()
    maps, heat = jax.jit(grad_cam)(params, images, labels)
    other, elsewhere = jax.jit(grad_cam)(params, images, (labels + 1) % 4)
    assert_same(maps.value, other.value)
    assert far_apart(elsewhere, heat)


def test_grad_cam_traces_the_forward_convolutions_and_no_backward_one():
    program = str(jax.make_jaxpr(grad_cam)(*cnn_inputs()))
    assert program.count("conv_general_dilated[") == 2


# Vector quantisation (VQ-VAE): the gradient passes straight through the rounding.


def straight_by_detach(z, q):
    return z + fg.detach(q - z)


def vq_loss(params, x, straight_through):
    z = fg.retain_grad(linear(params["encoder"], x), "z")
    codes = params["codes"]
    squares = jnp.sum((z[:, None] - codes) ** 2, axis=-1)
    q = codes[jnp.argmin(squares, axis=1)]
    s = fg.retain_grad(straight_through(z, q), "s")
    reconstruction = jnp.mean((linear(params["decoder"], s) - x) ** 2)
    codebook = jnp.mean((q - fg.detach(z)) ** 2)
    commitment = jnp.mean((z - fg.detach(q)) ** 2)
    return reconstruction + codebook + 0.25 * commitment


def vq_inputs():
    rng = np.random.default_rng(4)
    params = {
        "encoder": layer(rng, 12, 4),
        "codes": floats(rng, 16, 4),
        "decoder": layer(rng, 4, 12),
    }
    return params, floats(rng, 32, 12)


@pytest.mark.parametrize("straight_through", [straight_by_detach, fg.set_data])
def test_vq_vae_agrees_with_pytorch_with_detach_and_with_set_data(oracle, straight_through):
    params, x = vq_inputs()
    loss = functools.partial(vq_loss, straight_through=straight_through)
    got = jax.jit(fg.value_and_grad(loss, retain=...))(params, x)

    F, theirs = oracle.F, oracle.params(params)
    (x,) = oracle.data(x)
    z = oracle.linear(theirs["encoder"], x)
    z.retain_grad()
    q = F.embedding(oracle.torch.cdist(z, theirs["codes"]).argmin(dim=1), theirs["codes"])
    s = z + (q - z).detach()
    s.retain_grad()
    loss = F.mse_loss(oracle.linear(theirs["decoder"], s), x)
    loss = loss + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
    loss.backward()
    kept = {"s": oracle.kept(s), "z": oracle.kept(z)}
    oracle.assert_agrees(got, (loss, oracle.grads(theirs), kept))


def test_set_data_gives_the_code_to_the_last_bit_where_adding_the_difference_rounds():
    rng = np.random.default_rng(5)
    z, q = floats(rng, 1000) * np.float32(1000), floats(rng, 1000)
    assert_same(jax.jit(fg.set_data)(z, q), jnp.asarray(q))
    assert jnp.any(straight_by_detach(z, q) != q)


@pytest.mark.slow
def test_vq_vae_without_the_straight_through_teaches_the_encoder_no_reconstruction():
    params, x = vq_inputs()

    def encoder_gradient(straight_through):
        _, retained = jax.jit(
            fg.grad(functools.partial(vq_loss, straight_through=straight_through), retain=...)
        )(params, x)
        return retained["z"].grad, retained["s"].grad

    through, of_decoder = encoder_gradient(fg.set_data)
    without, _ = encoder_gradient(lambda z, q: q)
    assert far_apart(without, through)
    assert_close(through - without, of_decoder)


# Truncated back-propagation through time: `detach` between chunks.


def rnn_loss(params, xs, targets, steps, cut=fg.detach):
    """The summed loss of a recurrent net on (time, batch, features), cut every `steps`."""

    def step(h, at):
        x, target = at
        h = jnp.tanh(linear(params["input"], x) + h @ params["state"].T)
        h = fg.retain_grad(h, "h")
        return h, jnp.mean((linear(params["output"], h) - target) ** 2)

    def chunk(h, part):
        return lax.scan(step, cut(h), part)

    parts = jax.tree.map(lambda a: a.reshape(-1, steps, *a.shape[1:]), (xs, targets))
    h = jnp.zeros((xs.shape[1], len(params["state"])))
    _, losses = lax.scan(chunk, h, parts)
    return jnp.sum(losses)


def rnn_inputs():
    rng = np.random.default_rng(6)
    params = {
        "input": layer(rng, 3, 16),
        "state": floats(rng, 16, 16, scale=0.3),
        "output": layer(rng, 16, 2),
    }
    return params, floats(rng, 12, 5, 3), floats(rng, 12, 5, 2)


@pytest.mark.slow
def test_truncated_backpropagation_agrees_with_one_pytorch_backward_per_chunk(oracle):
    params, *inputs = rnn_inputs()
    loss = functools.partial(rnn_loss, steps=4)
    value, grads, retained = jax.jit(fg.value_and_grad(loss, retain="h"))(params, *inputs)

    theirs = oracle.params(params)
    xs, targets = oracle.data(*inputs)
    h, total, states = oracle.torch.zeros(5, 16), 0.0, []
    for start in range(0, 12, 4):
        h, chunk_loss = h.detach(), 0.0
        for x, target in zip(xs[start : start + 4], targets[start : start + 4], strict=True):
            h = oracle.torch.tanh(oracle.linear(theirs["input"], x) + h @ theirs["state"].T)
            h.retain_grad()
            states.append(h)
            chunk_loss = chunk_loss + oracle.F.mse_loss(oracle.linear(theirs["output"], h), target)
        chunk_loss.backward()
        total = total + chunk_loss
    assert retained["h"].grad.shape == (3, 4, 5, 16)
    kept = fg.Retained(
        oracle.torch.stack(states).reshape(3, 4, 5, 16),
        oracle.torch.stack([h.grad for h in states]).reshape(3, 4, 5, 16),
    )
    oracle.assert_agrees((value, grads, retained["h"]), (total, oracle.grads(theirs), kept))


@pytest.mark.slow
def test_truncation_leaves_the_loss_alone_and_changes_the_gradient():
    params, *inputs = rnn_inputs()

    def run(**how):
        return jax.jit(fg.value_and_grad(functools.partial(rnn_loss, **how)))(params, *inputs)

    truncated, whole, one_chunk = run(steps=4), run(steps=4, cut=same), run(steps=12)
    assert_close(truncated[0], whole[0])
    assert far_apart(truncated[1]["state"], whole[1]["state"])
    assert_close(one_chunk, whole)


# Actor-critic: the target is data for the critic, the advantage is data for the actor.


def policy_and_value(params, observations):
    h = jnp.tanh(linear(params["trunk"], observations))
    return linear(params["actor"], h), linear(params["critic"], h)[:, 0]


def actor_critic_loss(params, batch, target_of=fg.no_grad, advantage_of=fg.detach):
    logits, value = fg.retain_grad(policy_and_value(params, batch["observation"]), "heads")

    @target_of
    def bootstrap(params):
        _, after = policy_and_value(params, batch["next"])
        return batch["reward"] + 0.9 * (1 - batch["done"]) * after

    target = bootstrap(params)
    log_policy = jax.nn.log_softmax(logits)
    taken = jnp.take_along_axis(log_policy, batch["action"][:, None], axis=1)[:, 0]
    actor = -jnp.mean(taken * advantage_of(target - value))
    critic = jnp.mean((value - target) ** 2)
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_policy) * log_policy, axis=1))
    return actor + 0.5 * critic - 0.01 * entropy


def actor_critic_inputs():
    rng = np.random.default_rng(7)
    params = {
        "trunk": layer(rng, 6, 32),
        "actor": layer(rng, 32, 4),
        "critic": layer(rng, 32, 1),
    }
    batch = {
        "observation": floats(rng, 64, 6),
        "next": floats(rng, 64, 6),
        "action": rng.integers(4, size=64).astype(np.int32),
        "reward": floats(rng, 64),
        "done": (rng.uniform(size=64) < 0.2).astype(np.float32),
    }
    return params, batch


@pytest.mark.slow
def test_actor_critic_agrees_with_pytorch(oracle):
    params, batch = actor_critic_inputs()
    got = jax.jit(fg.value_and_grad(actor_critic_loss, retain="heads"))(params, batch)

    torch, theirs = oracle.torch, oracle.params(params)
    observation, action, reward, done, after = oracle.data(
        *(batch[name] for name in ("observation", "action", "reward", "done", "next"))
    )

    def heads(x):
        h = torch.tanh(oracle.linear(theirs["trunk"], x))
        return oracle.linear(theirs["actor"], h), oracle.linear(theirs["critic"], h).squeeze(1)

    logits, value = heads(observation)
    logits.retain_grad()
    value.retain_grad()
    with torch.no_grad():
        target = reward + 0.9 * (1 - done) * heads(after)[1]
    policy = torch.distributions.Categorical(logits=logits)
    actor = -(policy.log_prob(action) * (target - value).detach()).mean()
    loss = actor + 0.5 * oracle.F.mse_loss(value, target) - 0.01 * policy.entropy().mean()
    loss.backward()
    kept = {"heads": fg.Retained((logits, value), (logits.grad, value.grad))}
    oracle.assert_agrees(got, (loss, oracle.grads(theirs), kept))


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["target_of", "advantage_of"])
def test_actor_critic_needs_each_of_its_two_detachments(missing):
    inputs = actor_critic_inputs()
    right = jax.jit(fg.value_and_grad(actor_critic_loss))(*inputs)
    loss = functools.partial(actor_critic_loss, **{missing: same})
    wrong = jax.jit(fg.value_and_grad(loss))(*inputs)
    assert_close(wrong[0], right[0])
    assert far_apart(wrong[1]["critic"], right[1]["critic"])


# MAML: the gradient passes through a step of gradient descent.


def regression_loss(params, x, y):
    h = jnp.tanh(linear(params["hidden"], x))
    return jnp.mean((linear(params["output"], h) - y) ** 2)


def maml_loss(params, support, query, through=same):
    """The mean loss over tasks, each after one inner step; axis 0 of the data is the task."""

    def of_task(support, query):
        inner = through(fg.grad(regression_loss)(params, *support))
        adapted = jax.tree.map(lambda p, g: p - 0.1 * g, params, inner)
        return regression_loss(fg.retain_grad(adapted, "adapted"), *query)

    return jnp.mean(jax.vmap(of_task)(support, query))


def maml_inputs():
    rng = np.random.default_rng(8)
    params = {"hidden": layer(rng, 1, 20), "output": layer(rng, 20, 1)}
    amplitude = rng.uniform(0.5, 3, size=(6, 1, 1))
    phase = rng.uniform(0, np.pi, size=(6, 1, 1))

    def sample():
        x = rng.uniform(-3, 3, size=(6, 10, 1))
        return x.astype(np.float32), (amplitude * np.sin(x + phase)).astype(np.float32)

    return params, sample(), sample()


@pytest.mark.parametrize("second_order", [True, False])
def test_maml_agrees_with_pytorchs_create_graph_and_first_order_maml_with_detach(
    oracle, second_order
):
    params, *inputs = maml_inputs()
    loss = functools.partial(maml_loss, through=same if second_order else fg.detach)
    got = jax.jit(fg.value_and_grad(loss, retain="adapted"))(params, *inputs)

    torch, theirs = oracle.torch, oracle.params(params)
    (support_x, support_y), (query_x, query_y) = (oracle.data(*pair) for pair in inputs)

    def loss_of(params, x, y):
        h = torch.tanh(oracle.linear(params["hidden"], x))
        return oracle.F.mse_loss(oracle.linear(params["output"], h), y)

    losses, tasks = [], []
    leaves, tree = jax.tree.flatten(theirs)
    for task in range(6):
        inner = loss_of(theirs, support_x[task], support_y[task])
        inner_grads = torch.autograd.grad(inner, leaves, create_graph=second_order)
        adapted = [p - 0.1 * g for p, g in zip(leaves, inner_grads, strict=True)]
        for leaf in adapted:
            leaf.retain_grad()
        tasks.append(tree.unflatten(adapted))
        losses.append(loss_of(tasks[-1], query_x[task], query_y[task]))
    mean = torch.stack(losses).mean()
    mean.backward()
    kept = fg.Retained(
        jax.tree.map(lambda *leaves: torch.stack(leaves), *tasks),
        jax.tree.map(lambda *leaves: torch.stack([leaf.grad for leaf in leaves]), *tasks),
    )
    oracle.assert_agrees(got, (mean, oracle.grads(theirs), {"adapted": kept}))


@pytest.mark.slow
def test_maml_of_second_order_differs_from_first_order():
    params, *inputs = maml_inputs()
    second = jax.jit(fg.grad(maml_loss))(params, *inputs)
    first = jax.jit(fg.grad(functools.partial(maml_loss, through=fg.detach)))(params, *inputs)
    assert far_apart(first, second)


# Per-example gradient norms: |g|^2 = (|x|^2 + 1) |dL/dy|^2 for y = W x + b, and no g is made.


def classifier_loss(params, x, labels):
    """Summed, not averaged, so that each row's gradient belongs to its own example alone."""
    for name in ("first", "second"):
        with jax.named_scope(name):
            x = fg.retain_grad(x, "in")
            y = fg.retain_grad(linear(params[name], x), "out")
        x = jnp.tanh(y)
    return len(labels) * cross_entropy(y, labels)


def norms_from_tags(params, x, labels):
    _, kept = fg.grad(classifier_loss, retain=("*/in", "*/out"), requires_grad=False)(
        params, x, labels
    )
    squares = [
        (jnp.sum(kept[f"{name}/in"].value ** 2, axis=1) + 1)
        * jnp.sum(kept[f"{name}/out"].grad ** 2, axis=1)
        for name in params
    ]
    return jnp.sqrt(sum(squares))


def norms_from_gradients(params, x, labels):
    def of_one(x, label):
        grads = fg.grad(classifier_loss)(params, x[None], label[None])
        return jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))

    return jax.vmap(of_one)(x, labels)


def classifier_inputs(examples=24, width_in=20, width=48):
    rng = np.random.default_rng(9)
    params = {"first": layer(rng, width_in, width), "second": layer(rng, width, 5)}
    labels = rng.integers(5, size=examples).astype(np.int32)
    return params, floats(rng, examples, width_in), labels


def torch_gradients_one_by_one(oracle, params, x, labels):
    """The PyTorch loop: one example, one backward pass; leaves with gradients for each."""
    for one, label in zip(*oracle.data(x, labels), strict=True):
        theirs = oracle.params(params)
        h = oracle.torch.tanh(oracle.linear(theirs["first"], one))
        oracle.F.cross_entropy(oracle.linear(theirs["second"], h), label).backward()
        yield theirs


def test_per_example_norms_from_tags_agree_with_pytorchs_loop_over_examples(oracle):
    params, *inputs = classifier_inputs()
    got = jax.jit(norms_from_tags)(params, *inputs)
    want = [
        oracle.torch.cat([leaf.grad.flatten() for leaf in jax.tree.leaves(theirs)]).norm()
        for theirs in torch_gradients_one_by_one(oracle, params, *inputs)
    ]
    oracle.assert_agrees(got, oracle.torch.stack(want))


@pytest.mark.slow
def test_per_example_norms_from_tags_agree_with_vmapped_gradients_at_half_the_cost():
    params, *inputs = classifier_inputs(examples=256, width_in=128, width=128)
    assert_close(
        jax.jit(norms_from_tags)(params, *inputs), jax.jit(norms_from_gradients)(params, *inputs)
    )
    tags = compiled_cost(norms_from_tags, params, *inputs)
    gradients = compiled_cost(norms_from_gradients, params, *inputs)
    assert 2 * tags["flops"] < gradients["flops"]
    # XLA sums the squares of vmapped gradients as it makes them; even so they cost more.
    assert tags["temporary"] < 0.75 * gradients["temporary"]


# Per-example clipping (DP-SGD): under vmap a hook on shared weights sees one example's gradient.


LIMIT = 4.8  # about half of the examples exceed it


def clip_to(limit):
    def clip(grads):
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        factor = jnp.minimum(1.0, limit / (norm + 1e-6))  # as clip_grad_norm_ has it
        return jax.tree.map(lambda g: factor * g, grads)

    return clip


def clipped_loss(params, x, labels, hook):
    def of_one(params, x, label):
        return classifier_loss(fg.register_hook(params, hook), x[None], label[None])

    return jnp.sum(jax.vmap(of_one, in_axes=(None, 0, 0))(params, x, labels))


def test_clipping_hook_under_vmap_agrees_with_pytorchs_loop_over_examples(oracle):
    params, *inputs = classifier_inputs()
    loss = functools.partial(clipped_loss, hook=clip_to(LIMIT))
    got = jax.jit(fg.grad(loss))(params, *inputs)

    total, clipped = fg.zero_grad(params, set_to_none=True), 0
    for theirs in torch_gradients_one_by_one(oracle, params, *inputs):
        norm = oracle.torch.nn.utils.clip_grad_norm_(jax.tree.leaves(theirs), LIMIT)
        clipped += int(norm > LIMIT)
        add = lambda acc, leaf: leaf.grad if acc is None else acc + leaf.grad
        total = jax.tree.map(add, total, theirs, is_leaf=lambda leaf: leaf is None)
    assert 0 < clipped < len(inputs[0])
    oracle.assert_agrees(got, total)


@pytest.mark.slow
def test_clipping_hook_under_vmap_agrees_with_a_python_loop_in_jax():
    params, *inputs = classifier_inputs()
    got = jax.jit(fg.grad(functools.partial(clipped_loss, hook=clip_to(LIMIT))))(params, *inputs)
    one_example = jax.jit(jax.grad(classifier_loss))
    acc = fg.zero_grad(params)
    for x, label in zip(*inputs, strict=True):
        one = one_example(params, x[None], label[None])
        acc = fg.accumulate_grad(acc, clip_to(LIMIT)(one))
    assert_close(got, acc)


@pytest.mark.slow
def test_clipping_each_example_is_neither_no_clipping_nor_clipping_the_sum():
    params, *inputs = classifier_inputs()
    each = jax.jit(fg.grad(functools.partial(clipped_loss, hook=clip_to(LIMIT))))(params, *inputs)
    none = jax.jit(fg.grad(functools.partial(clipped_loss, hook=same)))(params, *inputs)
    assert far_apart(each, none)
    assert far_apart(each, clip_to(LIMIT)(none))


# Low-rank adapters (LoRA): frozen weights cost no gradient. The large ones are only compiled.


def lora_loss(params, x, frozen=same):
    for layer in params:
        low = (x @ layer["down"].T) @ layer["up"].T
        x = jnp.tanh(x @ frozen(layer["weight"]).T + low)
    return jnp.mean(x**2)


def is_adapter(path, _leaf):
    return path[-1].key != "weight"


def lora_shapes(layers=4, width=2048, rank=8, batch=64):
    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    layer = {
        "weight": shape(width, width),
        "down": shape(rank, width),
        "up": shape(width, rank),
    }
    return [layer] * layers, shape(batch, width)


@pytest.mark.slow
def test_masked_lora_costs_what_stop_gradient_costs_and_less_than_unmasked():
    shapes = lora_shapes()
    masked = compiled_cost(fg.value_and_grad(lora_loss, requires_grad=is_adapter), *shapes)
    unmasked = compiled_cost(fg.value_and_grad(lora_loss), *shapes)
    stopped = compiled_cost(
        fg.value_and_grad(functools.partial(lora_loss, frozen=fg.stop_gradient)), *shapes
    )
    assert masked["flops"] == pytest.approx(stopped["flops"], rel=0.01)
    assert masked["temporary"] == pytest.approx(stopped["temporary"], rel=0.01)
    assert masked["flops"] < 0.8 * unmasked["flops"]
    # None, and not zeros: four matrices of 16 MiB are not allocated. Temporaries alone do not
    # compare with the unmasked program's, which keeps intermediates in its large result buffers.
    matrices = 4 * 2048 * 2048 * 4
    assert stopped["results"] - masked["results"] >= matrices
    assert masked["temporary"] + masked["results"] < 0.1 * (
        unmasked["temporary"] + unmasked["results"]
    )


@pytest.mark.slow
def test_masked_lora_costs_what_jax_grad_of_the_adapters_alone_costs():
    layers, x = lora_shapes()
    frozen = [{"weight": layer["weight"]} for layer in layers]
    adapters = [{"down": layer["down"], "up": layer["up"]} for layer in layers]

    def plain(adapters, frozen, x):
        return lora_loss([a | f for a, f in zip(adapters, frozen, strict=True)], x)

    want = compiled_cost(jax.value_and_grad(plain), adapters, frozen, x)
    got = compiled_cost(fg.value_and_grad(lora_loss, requires_grad=is_adapter), layers, x)
    assert got == pytest.approx(want, rel=0.01)


def small_lora():
    rng = np.random.default_rng(10)
    layer = lambda: {
        "weight": floats(rng, 16, 16, scale=0.25),
        "down": floats(rng, 2, 16, scale=0.25),
        "up": floats(rng, 16, 2, scale=0.5),
    }
    return [layer(), layer()], floats(rng, 8, 16)


def test_masked_lora_gives_none_for_frozen_weights_and_pytorchs_gradients_for_adapters(oracle):
    params, x = small_lora()
    value, grads = jax.jit(fg.value_and_grad(lora_loss, requires_grad=is_adapter))(params, x)

    theirs = oracle.params(params)
    for leaves in theirs:
        leaves["weight"].requires_grad_(False)
    (h,) = oracle.data(x)
    for leaves in theirs:
        low = oracle.F.linear(oracle.F.linear(h, leaves["down"]), leaves["up"])
        h = oracle.torch.tanh(oracle.F.linear(h, leaves["weight"]) + low)
    (h**2).mean().backward()
    assert [g["weight"] for g in grads] == [None, None]
    oracle.assert_agrees((value, grads), ((h**2).mean(), oracle.grads(theirs)))


@pytest.mark.slow
def test_masked_lora_gives_none_for_frozen_weights_and_the_unmasked_gradients_for_adapters():
    params, x = small_lora()
    masked = jax.jit(fg.grad(lora_loss, requires_grad=is_adapter))(params, x)
    whole = jax.jit(fg.grad(lora_loss))(params, x)
    assert [layer.pop("weight") for layer in masked] == [None, None]
    assert all(jnp.any(layer.pop("weight") != 0) for layer in whole)
    assert_close(masked, whole)
