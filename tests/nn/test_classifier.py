import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fashiongen.errors import UserError
from fashiongen.nn.classifier import AttributeClassifier

HEADS = {"colour": ("red", "green", "blue"), "type": ("a", "b"), "Design features.x": ("only",)}


def network(**kwargs):
    torch.manual_seed(0)
    return AttributeClassifier(HEADS, **kwargs).eval()


@pytest.mark.parametrize(("height", "width"), [(64, 48), (33, 17), (1, 1)])
def test_shapes(height, width):
    net, images = network(), torch.rand(2, 3, height, width)
    logits = net(images)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {name: (2, len(values)) for name, values in HEADS.items()}
    expected = [(2, channels, -(-height // 2**i), -(-width // 2**i)) for i, channels in enumerate((16, 32, 64, 128), start=1)]
    assert [tuple(stage.shape) for stage in net.stages(images)] == expected
    assert net.features(images).shape == (2, net.n_features) == (2, 256)


def test_read_is_the_most_likely_value_of_each_head():
    net, images = network(), torch.rand(5, 3, 32, 24)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([0.0, 2.0, 1.0, 3.0, 0.0, 5.0]))
    read = net.read(images)
    assert {name: value.tolist() for name, value in read.items()} == {"colour": [1] * 5, "type": [0] * 5, "Design features.x": [0] * 5}
    assert all(value.dtype == torch.int64 for value in read.values())


def test_size_is_small():
    assert 150_000 < sum(parameter.numel() for parameter in network().parameters()) < 320_000


def test_gradient_flows_through_every_stage_to_the_image():
    net = network()
    for index in range(4):
        images = torch.rand(1, 3, 32, 24, requires_grad=True)
        net.stages(images)[index].square().sum().backward()
        assert images.grad.isfinite().all()
        assert images.grad.abs().max() > 0


def test_result_does_not_depend_on_the_batch_in_evaluation_mode():
    net, images = network(), torch.rand(4, 3, 32, 24)
    torch.testing.assert_close(net.features(images)[2:3], net.features(images[2:3]), rtol=1e-4, atol=1e-5)


def test_it_learns_colours_in_a_few_steps():
    generator = torch.Generator().manual_seed(0)
    net = AttributeClassifier({"colour": ("red", "green", "blue")}, channels=(8, 16))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)

    def draw(samples):
        labels = torch.randint(3, (samples,), generator=generator)
        images = 0.5 * torch.rand(samples, 3, 16, 12, generator=generator)
        images[torch.arange(samples), labels] += 0.2
        return images, labels

    for _ in range(30):
        images, labels = draw(32)
        torch.nn.functional.cross_entropy(net(images)["colour"], labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    images, labels = draw(200)
    assert (net.eval().read(images)["colour"] == labels).float().mean() > 0.9


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 0), (torch.float16, 1e-2)])
def test_saved_and_loaded_is_the_same(tmp_path, dtype, tolerance):
    net, images = network(channels=(8, 12)), torch.rand(3, 3, 32, 24)
    net.train()(images)
    net.eval().save_pretrained(tmp_path / "new" / "folder", dtype=dtype)
    loaded = AttributeClassifier.from_pretrained(tmp_path / "new" / "folder")
    assert not loaded.training
    assert loaded.config == net.config == json.loads(json.dumps(net.config))
    assert all(value.dtype == net.state_dict()[key].dtype for key, value in loaded.state_dict().items())
    for name, logits in net(images).items():
        torch.testing.assert_close(loaded(images)[name], logits, rtol=0, atol=tolerance)
    stored = load_file(tmp_path / "new" / "folder" / "model.safetensors")
    assert stored["head.weight"].dtype == (dtype or torch.float32)
    assert stored["body.0.norm_1.num_batches_tracked"].dtype == torch.int64


def spoil(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json does not describe"),
        (lambda folder: (folder / "config.json").write_text('{"heads": {"a": ["b"]}}'), "config.json does not describe.*channels"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "model.safetensors"),
        (lambda folder: spoil(folder, lambda state: state.pop("head.bias")), "missing.*head.bias"),
        (lambda folder: spoil(folder, lambda state: state.update(extra=torch.zeros(1))), "left over.*extra"),
        (lambda folder: spoil(folder, lambda state: state.update({"head.bias": torch.zeros(7)})), "head.bias.*7"),
    ],
)
def test_a_damaged_folder_is_a_one_line_error(tmp_path, damage, message):
    network().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        AttributeClassifier.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        AttributeClassifier.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(("heads", "channels"), [({}, (8,)), ({"colour": ()}, (8,)), ({"colour": ("red",)}, ())])
def test_an_empty_description_is_refused(heads, channels):
    with pytest.raises(UserError, match="AttributeClassifier needs"):
        AttributeClassifier(heads, channels)
