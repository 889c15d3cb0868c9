"""Backbones made of experts and towers, each against a slow reading of its equations, one row at a time."""

import numpy as np
import pytest


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def dense(w, name, x):
    """A PyTorch linear layer."""
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)


def own(w, name, s, x):
    """The linear layer of scenario s."""
    return x @ w[f"{name}.weight"][s] + w[f"{name}.bias"][s]


def one(w, name, e, x):
    """The linear layer of expert e."""
    return x @ w[f"{name}.weight"][:, e] + w[f"{name}.bias"][e]


def layer_norm(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def tower(w, s, x, hidden=1):
    for layer in range(hidden):
        x = relu(own(w, f"tower.{layer}", s, x))
    return own(w, f"tower.{hidden}", s, x)[0]


def expert(w, name, e, x, layers=1):
    for layer in range(layers):
        x = relu(one(w, f"{name}.{layer}", e, x))
    return x


def shared_bottom(w, x, s):
    return tower(w, s, relu(dense(w, "bottom.0", x)))


def omoe(w, x, s):
    gate = softmax(dense(w, "gate", x))
    return tower(w, s, sum(gate[e] * expert(w, "experts", e, x, 2) for e in range(2)))


def mmoe(w, x, s):
    gate = softmax(own(w, "gate", s, x))
    return tower(w, s, sum(gate[e] * expert(w, "experts", e, x, 2) for e in range(2)))


def ple(w, x, s, levels=3):
    q = dict.fromkeys((0, 1, 2, "shared"), x)
    for level in range(levels):
        name = f"levels.{level}" if level < levels - 1 else "last"
        specific = {t: np.split(relu(own(w, f"{name}.specific", t, q[t])), 2) for t in range(3)}
        shared = [expert(w, f"{name}.shared", e, q["shared"]) for e in range(3)]
        new = {}
        for t in range(3):
            gate = softmax(own(w, f"{name}.gate", t, q[t]))
            new[t] = sum(g * e for g, e in zip(gate, specific[t] + shared, strict=True))
        if level < levels - 1:
            gate = softmax(dense(w, f"{name}.shared_gate", q["shared"]))
            everyone = specific[0] + specific[1] + specific[2] + shared
            new["shared"] = sum(g * e for g, e in zip(gate, everyone, strict=True))
        q = new
    return tower(w, s, q[s])


def aitm(w, x, s):
    z = relu(dense(w, "bottom.0.0", x))
    for t in range(1, s + 1):
        both = [dense(w, f"transfer.{t - 1}", z), relu(dense(w, f"bottom.{t}.0", x))]
        score = [dense(w, "attention.query", v) @ dense(w, "attention.key", v) / np.sqrt(5) for v in both]
        a = softmax(np.array(score))
        z = sum(a[j] * dense(w, "attention.value", both[j]) for j in range(2))
    return tower(w, s, z)


def norm(w, name, s, v):
    gamma, beta = w[f"{name}.gamma"] * w[f"{name}.own_gamma"][s], w[f"{name}.beta"] + w[f"{name}.own_beta"][s]
    return gamma * (v - w[f"{name}.mean"][s]) / np.sqrt(w[f"{name}.variance"][s] + 1e-5) + beta


def sar_net(w, x, s):
    v = x * w["own_scale"][s] + w["own_shift"][s]
    experts = [one(w, "shared", e, norm(w, "shared_norm", 0, v)) for e in range(3)]
    experts += np.split(own(w, "specific", s, norm(w, "specific_norm", s, v)), 2)
    f = sum(g * e for g, e in zip(softmax(dense(w, "gate", v)), experts, strict=True))
    return dense(w, "out", relu(dense(w, "layers.0", f)))[0]


def m3oe(w, x, s):
    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    def block(name, v):
        v = layer_norm(dense(w, f"{name}.0", v))
        return relu(v * w[f"{name}.1.weight"] + w[f"{name}.1.bias"])

    def normed(name, e, v):
        v = layer_norm(one(w, f"{name}.0", e, v))
        return relu(v * w[f"{name}.0.gamma"][e] + w[f"{name}.0.beta"][e])

    star = x @ (w["star.weight"] * w["star.own_weight"][s]) + w["star.bias"] + w["star.own_bias"][s]
    e = block("after", star) + block("skip", x)
    gate = softmax(own(w, "gate", s, e))
    f = sum(gate[i] * normed("shared", i, e) for i in range(2))
    balance = sigmoid(w["balance"])
    others = [normed("own", t, e) for t in range(3) if t != s]
    f = f + sigmoid(w["weight"]) * (balance * normed("own", s, e) + (1 - balance) * sum(others) / 2)
    h = layer_norm(own(w, "tower", s, f))
    return own(w, "tower_out", s, relu(h * w["tower_gamma"][s] + w["tower_beta"][s]))[0]


@pytest.mark.parametrize("oracle", [shared_bottom, omoe, mmoe, ple, aitm, sar_net, m3oe], ids=lambda f: f.__name__)
def test_scores_are_those_of_the_equations(check_equations, oracle):
    check_equations(oracle.__name__, oracle)


def test_ple_of_one_level_has_no_shared_gate(check_equations, make_backbone):
    check_equations("ple", lambda w, x, s: ple(w, x, s, levels=1), hidden=[5])
    assert make_backbone("ple", hidden=[5])[0].last.shared_gate is None


def test_experts_are_as_many_as_scenarios_unless_said_otherwise(make_backbone):
    assert len(make_backbone("mmoe", experts=None)[0].experts[0].bias) == 3


def test_a_row_of_an_early_scenario_trains_no_later_step(make_backbone):
    module, inputs = make_backbone("aitm")
    module(inputs._replace(scenario=inputs.scenario.clamp(max=1))).square().sum().backward()
    assert all(not p.grad.any() for p in (*module.bottom[2].parameters(), *module.transfer[1].parameters()))
    assert all(p.grad.any() for p in module.bottom[1].parameters())
