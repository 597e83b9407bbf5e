"""State dicts in the layouts of GeCo's authors' code, and their layers written by hand: references for the published loaders."""

import torch
from torch.nn.functional import batch_norm, conv2d, conv_transpose2d


class State(dict):
    """Random tensors by the authors' names."""

    def conv(self, name, before, after, size=4, bias=True):
        self[f"{name}.weight"] = torch.randn(after, before, size, size) * (before * size * size) ** -0.5
        if bias:
            self[f"{name}.bias"] = torch.randn(after) * 0.1

    def up(self, name, before, after):
        self[f"{name}.weight"] = torch.randn(before, after, 4, 4) * (before * 4) ** -0.5
        self[f"{name}.bias"] = torch.randn(after) * 0.1

    def norm(self, name, channels):
        self[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels)
        self[f"{name}.bias"] = 0.1 * torch.randn(channels)
        self[f"{name}.running_mean"] = 0.1 * torch.randn(channels)
        self[f"{name}.running_var"] = 0.5 + torch.rand(channels)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def parameters(self):
        return sum(value.numel() for key, value in self.items() if not key.endswith(("running_mean", "running_var", "tracked")))

    def down_layer(self, name, features):
        return conv2d(features, self[f"{name}.weight"], self.get(f"{name}.bias"), stride=2, padding=1)

    def up_layer(self, name, features):
        return conv_transpose2d(features, self[f"{name}.weight"], self[f"{name}.bias"], stride=2, padding=1)

    def norm_layer(self, name, features):
        mean, variance, weight, bias = (self[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(features, mean, variance, weight, bias)

    def save(self, path):
        """Written like their training does: with the epoch and an optimizer's state."""
        torch.save(
            {"epoch": 58, "model_state_dict": dict(self), "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-4}]}}, path
        )
        return str(path)


def bottom_encoder():
    state = State()
    state.conv("encoder.0", 3, 64)
    for place, (before, after) in enumerate([(64, 128), (128, 256), (256, 512), (512, 512)], start=1):
        state.conv(f"encoder.{place}.1", before, after)
        state.norm(f"encoder.{place}.2", after)
    return state


def encode_bottoms(state, bottoms):
    code = state.down_layer("encoder.0", bottoms)
    for place in range(1, 5):
        code = torch.where(code > 0, code, 0.01 * code)
        code = state.norm_layer(f"encoder.{place}.2", state.down_layer(f"encoder.{place}.1", code))
    return code


def ranker():
    state = State()
    for side in "AB":
        state[f"enc_{side}_W"] = torch.randn(512, 128) * 0.05
        state[f"enc_{side}_b"] = torch.randn(128) * 0.1
    return state


def rank(state, side, code):
    pooled = torch.nn.functional.avg_pool2d(code, 2, stride=1).view(-1, 512)
    return torch.sigmoid(pooled @ state[f"enc_{side}_W"] + state[f"enc_{side}_b"])
