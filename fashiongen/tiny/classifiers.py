"""The stages of the tiny classifiers: of shop images, of worn garments, and the stand-ins for ImageNet's networks.

The attribute classifier of shop images is the metrics' network. A second one, of another seed and other items, may take part in losses
and rewards, so that nothing grades itself.
"""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from fashiongen.methods.bpr_dae.network import AlexNet
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.crop import cut_out
from fashiongen.tiny.images import SIZE, RenderedImages, heads
from fashiongen.tiny.training import AnyModule, Draws, Run, train


def shift(images: Tensor, most: int, draws: Draws) -> Tensor:
    """Shift each image of (B, 3, H, W) by up to `most` pixels, with replicated edges."""
    count, _, height, width = images.shape
    padded = pad(images, (most,) * 4, mode="replicate")
    rows = draws.integers(2 * most + 1, count, 1, 1) + torch.arange(height, device=images.device)[None, :, None]
    columns = draws.integers(2 * most + 1, count, 1, 1) + torch.arange(width, device=images.device)[None, None, :]
    return padded[torch.arange(count, device=images.device)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def disturbed(images: Tensor, draws: Draws) -> Tensor:
    """Shift uint8 images (B, 3, H, W), add slight noise, and return them in [0, 1]."""
    shifted = shift(images.float() / 255, 3, draws)
    strength = 0.05 * draws.uniform(len(images), 1, 1, 1)
    return (shifted + strength * draws.normal(*shifted.shape)).clamp(0, 1)


def attribute_loss(logits: dict[str, Tensor], rendered: RenderedImages, chosen: Tensor) -> Tensor:
    """Return the sum of all attributes' cross-entropies."""
    return torch.stack([cross_entropy(logits[name].float(), labels[chosen]) for name, labels in rendered.labels.items()]).sum()


def train_classifier(run: Run, name: str, rendered: RenderedImages, steps: int, batch: int) -> AttributeClassifier:
    """Train an attribute classifier on augmented images, so that it also classifies restored images."""
    network = AttributeClassifier(heads())

    def loss(draws: Draws) -> Tensor:
        chosen = draws.integers(len(rendered), batch)
        return attribute_loss(network(disturbed(rendered.images[chosen], draws)), rendered, chosen)

    return train(run, name, network, loss, steps=steps, learning_rate=4e-3)


@torch.no_grad()
def judge_classifier(network: AttributeClassifier, rendered: RenderedImages) -> dict[str, float]:
    """Return the accuracy for each attribute."""
    return rendered.share_read(network.read(rendered.images.float() / 255))


def worn_garments(people: RenderedImages) -> RenderedImages:
    """Crop photos (N, 3, H, W) of people to the agnostic region around the garment, grey outside of it, at the same size.

    A try-on changes exactly this region: it is what the classifier of worn garments reads.
    """
    parts = []
    for chosen in torch.arange(len(people), device=people.images.device).split(1000):
        parts.append((cut_out(people.images[chosen].float() / 255, people.masks[chosen], SIZE) * 255).round().to(torch.uint8))
    return RenderedImages(torch.cat(parts), people.masks, people.labels, people.captions)


def build_resnet18() -> nn.Module:
    """Build the stand-in for ImageNet's ResNet-18 in timm's layout, a quarter as wide; its classes are all values of all attributes."""
    network: nn.Module = timm.create_model("resnet18", channels=[16, 32, 64, 128], num_classes=sum(map(len, heads().values())))
    return network


def build_alexnet() -> nn.Module:
    """Build the stand-in for ImageNet's AlexNet in torchvision's layout, narrower, with the same classes."""
    network = AlexNet(channels=(16, 48, 64, 64, 32), fc=256)
    network.classifier.append(nn.Linear(network.width, sum(map(len, heads().values()))))
    for layer in network.modules():
        if isinstance(
            layer, nn.Conv2d | nn.Linear
        ):  # with torch's default initialisation the signal vanishes over eight layers without normalisation
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.1
    return network


def labelled(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return each attribute's logits for images (B, 3, H, W) in [0, 1]; the network gets them with ImageNet's normalisation.

    AlexNet gets them at twice the size, since it reduces 64 pixels to a single cell.
    """
    if isinstance(network, AlexNet):
        images = interpolate(images, scale_factor=2, mode="bilinear", antialias=True)
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    sizes = {name: len(values) for name, values in heads().items()}
    return dict(zip(sizes, network((images - mean) / std).split(list(sizes.values()), dim=1), strict=True))


def train_backbone(run: Run, name: str, network: AnyModule, shop: RenderedImages, steps: int, batch: int) -> AnyModule:
    """Train a stand-in to classify all attributes of shop images, as the original classifies ImageNet."""

    def loss(draws: Draws) -> Tensor:
        chosen = draws.integers(len(shop), batch)
        return attribute_loss(labelled(network, disturbed(shop.images[chosen], draws)), shop, chosen)

    return train(run, name, network, loss, steps=steps, learning_rate=1e-3 if isinstance(network, AlexNet) else 2e-3)


@torch.no_grad()
def judge_backbone(network: nn.Module, shop: RenderedImages) -> dict[str, float]:
    """Return the accuracy for each attribute."""
    return shop.share_read({name: logits.argmax(dim=1) for name, logits in labelled(network, shop.images.float() / 255).items()})


# Name and builder of each stand-in.
BACKBONES: dict[str, Callable[[], nn.Module]] = {"resnet18": build_resnet18, "alexnet": build_alexnet}
