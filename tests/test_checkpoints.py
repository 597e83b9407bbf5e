import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fashiongen import checkpoints
from fashiongen.errors import UserError


class Opens:
    """An attacker's payload in a pickle: it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_locating(tmp_path):
    assert checkpoints.locate(str(tmp_path)) == str(tmp_path)
    assert checkpoints.locate("owner/name") == "owner/name"
    assert checkpoints.locate("tiny", "clip").endswith("clip")
    for wrong in (str(tmp_path / "absent"), "./absent", "~/absent", "word", "a/b/c"):
        with pytest.raises(UserError, match="no such folder"):
            checkpoints.locate(wrong)


def test_a_missing_tiny_checkpoint_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "tiny_weights", lambda: tmp_path)
    with pytest.raises(UserError, match="fashiongen tiny build"):
        checkpoints.locate("tiny")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.ckpt"])
def test_reading_states(tmp_path, name):
    state = {"a.weight": torch.arange(4.0)}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state} if name.endswith("ckpt") else state, tmp_path / name)
    assert torch.equal(checkpoints.read_state(tmp_path / name)["a.weight"], state["a.weight"])


def test_what_is_no_state_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Opens(tmp_path / "ran")))
    torch.save({"weight": torch.zeros(1), "code": Opens(tmp_path / "ran")}, tmp_path / "hidden.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("text.safetensors", "text.pt", "code.pt", "hidden.pt", "list.pt", "absent.pt", "."):
        with pytest.raises(UserError) as error:
            checkpoints.read_state(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists(), "code in the file was run"


def test_every_unfit_key_is_named():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = module.state_dict()
    state["0.weight"] = torch.zeros(5, 5)
    state["surplus"] = torch.zeros(1)
    del state["1.bias"]
    with pytest.raises(
        UserError,
        match=r"file.pt does not fit Sequential: missing: 1.bias; left over: surplus; of another shape: 0.weight \(5, 5\) for \(3, 2\)",
    ):
        checkpoints.load_state(module, state, source="file.pt")
    del state["surplus"], state["0.weight"]
    checkpoints.load_state(module, state, source="file.pt", may_miss={"1.bias", "0.weight"})
