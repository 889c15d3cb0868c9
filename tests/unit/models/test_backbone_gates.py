"""Backbones whose weights are modulated or generated, each against its equations, one row at a time."""

import numpy as np
import pytest
import torch

from models.backbones.layers import Groups


def relu(x):
    return np.maximum(x, 0)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def dense(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)


def own(w, name, s, x):
    return x @ w[f"{name}.weight"][s] + w[f"{name}.bias"][s]


def norm(w, name, s, v):
    gamma, beta = w[f"{name}.gamma"] * w[f"{name}.own_gamma"][s], w[f"{name}.beta"] + w[f"{name}.own_beta"][s]
    return gamma * (v - w[f"{name}.mean"][s]) / np.sqrt(w[f"{name}.variance"][s] + 1e-5) + beta


def star_layers(w, s, h):
    for layer in range(3):
        h = h @ (w[f"layers.{layer}.weight"] * w[f"layers.{layer}.own_weight"][s])
        h = h + w[f"layers.{layer}.bias"] + w[f"layers.{layer}.own_bias"][s]
        h = relu(h) if layer < 2 else h
    return h[0]


def star(w, x, s):
    a = relu(dense(w, "auxiliary.0", np.concatenate((x, w["scenario"][s]))))
    return star_layers(w, s, norm(w, "norm", s, x)) + dense(w, "auxiliary_out", a)[0]


def m2m(w, x, s):
    code, task = (leaky(dense(w, name, w["own_code"][s])) for name in ("knowledge", "task"))

    def unit(name, v):
        width = len(v)
        return v @ dense(w, f"{name}.weight", code).reshape(width, width) + dense(w, f"{name}.bias", code)

    experts = [relu(x @ w["experts.0.weight"][:, e] + w["experts.0.bias"][e]) for e in range(3)]
    score = [leaky(unit("attention", np.concatenate((e, task)))) @ w["score"] for e in experts]
    r = sum(a * e for a, e in zip(softmax(np.array(score)), experts, strict=True))
    for layer in range(2):
        r = leaky(unit(f"meta_tower.{layer}", r) + r)
    return dense(w, "out", relu(dense(w, "layers.0", r)))[0]


def adasparse(w, x, s):
    h = x
    for layer in range(3):
        score = dense(w, f"from_code.{layer}", w["own_code"][s]) + dense(w, f"from_hidden.{layer}", h)
        pi = 2 * sigmoid(w["alpha"] * score)
        h = dense(w, f"layers.{layer}", h * np.where(pi > 0.6, pi, 0))
        h = relu(h) if layer < 2 else h
    return h[0]


def adaptdhm(w, x, s):
    return star_layers(w, int(np.argmax(w["centre"] @ x)), x)


def epnet(w, x, s):
    inside = relu(dense(w, "gate.0", np.concatenate((w["own_code"][s], x))))
    h = x * 2 * sigmoid(dense(w, "gate.2", inside))
    h = relu(dense(w, "layers.0", h))
    return dense(w, "out", relu(dense(w, "layers.2", h)))[0]


def ppnet(w, x, s):
    prior, h = np.concatenate((x[0:2], x[4:6], x)), x  # Fields 0 and 2, each two wide, are the ids.
    for layer in range(2):
        gate = 2 * sigmoid(own(w, f"gate_out.{layer}", s, relu(own(w, f"gate_in.{layer}", s, prior))))
        h = relu(own(w, f"layers.{layer}", s, h)) * gate
    return own(w, "out", s, h)[0]


def hamur(w, x, s):
    core = dense(w, "core", relu(dense(w, "hyper.0", x))).reshape(3, 3)
    h = x
    for layer in range(2):
        h = relu(own(w, f"layers.{layer}", s, h))
    a = sigmoid(h @ w["down.u"] @ core @ w["down.v"] + w["down.bias"])
    o = a @ w["up.u"] @ core @ w["up.v"] + w["up.bias"]
    return own(w, "out", s, h + norm(w, "norm", s, o))[0]


def deepfm(w, x, s):
    f = x[:8].reshape(4, 2)
    pairs = sum(f[i] @ f[j] for i in range(4) for j in range(i))
    deep = relu(dense(w, "layers.2", relu(dense(w, "layers.0", x))))
    return dense(w, "linear", x)[0] + dense(w, "out", deep)[0] + pairs


ORACLES = [star, m2m, adasparse, adaptdhm, epnet, ppnet, hamur, deepfm]


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda f: f.__name__)
def test_scores_are_those_of_the_equations(check_equations, oracle):
    check_equations(oracle.__name__, oracle)


def test_star_starts_alike_in_all_scenarios(make_backbone):
    module, inputs = make_backbone("star")
    for layer in module.layers:
        torch.nn.init.ones_(layer.own_weight)
        torch.nn.init.zeros_(layer.own_bias)
    torch.nn.init.zeros_(module.scenario)
    module.norm = None
    same = inputs._replace(x=inputs.x[:1].expand(23, -1))
    out = module.eval()(same)
    torch.testing.assert_close(out, out[:1].expand(23), rtol=0, atol=1e-6)


def test_star_logit_can_be_negative(make_backbone):
    module, inputs = make_backbone("star")
    out = module.eval()(inputs)
    assert (out < 0).any()
    assert (out > 0).any()


def test_partitioned_norm_uses_the_statistics_of_its_scenario(make_backbone):
    norm = type(make_backbone("star")[0].norm)(2, 2)
    x = torch.cat((torch.randn(50, 2), 100 + 7 * torch.randn(50, 2)))
    out = norm(x, Groups(torch.arange(100) // 50, 2))
    for part in (out[:50], out[50:]):
        torch.testing.assert_close(part.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-3)
    assert norm.mean[1, 0] > 5 * norm.mean[0, 0].abs()


def test_pruners_sharpen_in_training_and_rest_in_evaluation(make_backbone):
    module, inputs = make_backbone("adasparse", alpha_step=0.5)
    module(inputs)
    module.eval()(inputs)
    assert module.state_dict()["alpha"].item() == 1.5


def test_clusters_follow_the_rows_and_train_by_their_own_rows_only(make_backbone):
    module, inputs = make_backbone("adaptdhm")
    x = torch.cat((torch.randn(12, 10) + 5, torch.randn(11, 10) - 5))
    for _ in range(20):
        module.route(x)
    torch.testing.assert_close(module.centre.norm(dim=1), torch.ones(2))
    cluster = module.eval().route(x)
    assert len(set(cluster[:12].tolist())) == len(set(cluster[12:].tolist())) == 1
    assert cluster[0] != cluster[-1]
    module(inputs._replace(x=x[:12])).square().sum().backward()
    weight = module.layers[0].own_weight.grad
    assert weight[cluster[0]].any()
    assert not weight[cluster[-1]].any()


@pytest.mark.parametrize("name", ["epnet", "ppnet"])
def test_a_gate_trains_no_embedding_but_its_own(make_backbone, name):
    """With the tower's path cut, x gets a gradient through the gate from PPNet's ids alone."""
    module, inputs = make_backbone(name)
    x = inputs.x.clone().requires_grad_()
    with torch.no_grad():
        first = module.layers[0] if name == "ppnet" else None
        if first is not None:
            first.weight.zero_()
            first.bias.fill_(1.0)
    out = module(type(inputs).of(x, inputs.scenario, module.config.shape))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    if name == "ppnet":
        assert gradient[:, [0, 1, 4, 5]].any()
        assert not gradient[:, [2, 3, 6, 7, 8, 9]].any()
    else:
        code = module.own_code.index_select(0, inputs.scenario)
        delta = 2 * torch.sigmoid(module.gate(torch.cat((code, inputs.x), dim=1))).detach()
        gated = (inputs.x * delta).requires_grad_()
        (through,) = torch.autograd.grad(module.out(module.layers(gated)).sum(), gated)
        torch.testing.assert_close(gradient, through * delta)
