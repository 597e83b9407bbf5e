"""The published networks behind the metrics, each with exactly the preprocessing of its reference implementation.

Networks take images as floats `(B, 3, H, W)` in [0, 1]. They are first rounded to the 256 levels of an image file, which is what the
reference implementations read.
"""

import itertools
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Self

import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image import dists
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from fashiongen.checkpoints import load_state, read_state
from fashiongen.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# The architecture that a transformers folder must have for each name.
ARCHITECTURES: dict[str, dict[str, int | str]] = {
    # OpenAI's: OpenCLIP's has another activation.
    "clip-vit-b-32": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 32, "projection_dim": 512, "hidden_act": "quick_gelu"},
    # OpenCLIP's, trained on LAION-2B.
    "clip-vit-h-14": {"hidden_size": 1280, "num_hidden_layers": 32, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu"},
    "tiny-clip": {"hidden_size": 96, "num_hidden_layers": 3, "patch_size": 6, "projection_dim": 64, "hidden_act": "quick_gelu"},
    "dinov2-small": {"hidden_size": 384, "num_hidden_layers": 12, "patch_size": 14},
    "dinov2-base": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 14},
    "dinov2-large": {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14},
}

# Likewise for the text towers.
TEXT_ARCHITECTURES: dict[str, dict[str, int | str]] = {
    "clip-vit-b-32": {"hidden_size": 512, "num_hidden_layers": 12, "projection_dim": 512, "hidden_act": "quick_gelu"},
    "clip-vit-h-14": {"hidden_size": 1024, "num_hidden_layers": 24, "projection_dim": 1024, "hidden_act": "gelu"},
    "tiny-clip": {"hidden_size": 64, "num_hidden_layers": 2, "projection_dim": 64, "hidden_act": "quick_gelu"},
}

# Channels of DISTS's layers: the image, then the end of each stage of VGG16.
CHANNELS = (3, 64, 128, 256, 512, 512)

# torchvision's network under each LPIPS.
TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def load_lpips(net: str, file: Path) -> nn.Module:
    """Return the network of the library `lpips`, version 0.1, on torchvision's weights in `file`.

    It takes two batches in [-1, 1] (`normalize=True`: in [0, 1]) and returns distances `(B, 1, 1, 1)`. The library would unpickle the file
    without `weights_only`, so its trunk is initialised at random and then gets the file's weights.
    """
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about how lpips calls it
        network: Any = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    features = _torchvision(TRUNKS[net], file).state_dict()
    # The trunk's slices keep the layer numbers of `features`.
    state = {key: features[f"features.{key.partition('.')[2]}"] for key in network.net.state_dict()}
    load_state(network.net, state, source=str(file))
    return network  # type: ignore[no-any-return]


class DISTSNetwork(dists.DISTSNetwork):
    """torchmetrics' DISTS network on a safely loaded VGG16; its own constructor would unpickle the file without `weights_only`.

    It takes two batches in [0, 1] and returns distances `(B,)`.
    """

    def __init__(self, features: nn.Sequential) -> None:
        """Split the layers of VGG16 into five stages; all but the first start with L2 pooling instead of max pooling."""
        nn.Module.__init__(self)
        for number, (first, last) in enumerate(itertools.pairwise((0, 4, 9, 16, 23, 30)), start=1):
            stage = nn.Sequential(*features[first:last])
            if number > 1:
                stage[0] = dists.L2pooling(channels=CHANNELS[number - 1])
            setattr(self, f"stage{number}", stage)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.chns = list(CHANNELS)
        weights = read_state(Path(dists.__file__).parent / "dists_models" / "weights.pt")
        self.alpha, self.beta = nn.Parameter(weights["alpha"]), nn.Parameter(weights["beta"])


def load_dists(file: Path) -> nn.Module:
    """Return the DISTS network with torchvision's VGG16 weights in `file`."""
    return DISTSNetwork(_torchvision("vgg16", file).features)


def _torchvision(name: str, file: Path) -> Any:  # noqa: ANN401  torchvision's networks share no type
    with torch.device("meta"):  # skips the random initialisation, which takes seconds
        network = getattr(torchvision.models, name)(weights=None)
    network = network.to_empty(device="cpu")
    load_state(network, read_state(file), source=str(file))
    return network.eval()


class InceptionFeatures(nn.Module):
    """The Inception-v3 of FID and KID: pooled features `(B, 2048)`.

    This is TensorFlow's network of 2015 as ported by pytorch-fid: the layers are classes bundled with clean-fid, the weights come from
    pytorch-fid's file of plain tensors. clean-fid's own default is the same network as a TorchScript file, which is code and therefore not
    read. The preprocessing is that of clean-fid's mode `clean`: each channel resized to 299 x 299 whatever the aspect ratio, with Pillow's
    antialiased bicubic filter and without rounding, clipped to [0, 255], minus 128, divided by 128.
    """

    def __init__(self) -> None:
        """Build the network, without weights."""
        super().__init__()
        from cleanfid import inception_pytorch as published

        with torch.device("meta"):
            network = torchvision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
            network.Mixed_5b = published.FIDInceptionA(192, pool_features=32)
            network.Mixed_5c = published.FIDInceptionA(256, pool_features=64)
            network.Mixed_5d = published.FIDInceptionA(288, pool_features=64)
            network.Mixed_6b = published.FIDInceptionC(768, channels_7x7=128)
            network.Mixed_6c = published.FIDInceptionC(768, channels_7x7=160)
            network.Mixed_6d = published.FIDInceptionC(768, channels_7x7=160)
            network.Mixed_6e = published.FIDInceptionC(768, channels_7x7=192)
            network.Mixed_7b = published.FIDInceptionE_1(1280)
            network.Mixed_7c = published.FIDInceptionE_2(2048)
        self.network = network.to_empty(device="cpu")

    @classmethod
    def from_pretrained(cls, file: Path) -> Self:
        """Build the network with the weights of pytorch-fid's file."""
        features = cls()
        # Files from old versions of PyTorch lack these unused counters.
        counters = {key: value.zero_() for key, value in features.network.state_dict().items() if key.endswith("num_batches_tracked")}
        load_state(features.network, counters | read_state(file), source=str(file))
        features.network.fc = nn.Identity()
        return features

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features `(B, 2048)` of images `(B, 3, H, W)` in [0, 1], any size."""
        features: Tensor = self.network((resized_for_inception(images) - 128) / 128)
        return features


def resized_for_inception(images: Tensor) -> Tensor:
    """Resize images `(B, 3, H, W)` in [0, 1] to `(B, 3, 299, 299)` in [0, 255] as clean-fid does.

    torch's antialiased filter is Pillow's; float64 because Pillow computes its weights in float64.
    """
    resized = functional.interpolate(in_steps(images).double(), size=(299, 299), mode="bicubic", antialias=True)
    return resized.clamp(0, 255).float()


class DINOFeatures(nn.Module):
    """DINOv2: the class token after the last norm, `(B, C)`.

    The preprocessing is that of DINOv2's own evaluation: the shorter side resized to 256 with Pillow's bicubic filter to integer levels,
    center crop 224 x 224, ImageNet's mean and standard deviation.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401  as above
        """Wrap a Dinov2Model."""
        super().__init__()
        self.model: Any = model

    @classmethod
    def from_pretrained(cls, name: str, folder: Path) -> Self:
        """Load a folder in transformers' format with the architecture `name`."""
        return cls(load_transformers("Dinov2Model", name, folder))

    def features(self, images: Tensor, resize: int = 256, crop: int = 224) -> Tensor:
        """Return the class tokens of images `(B, 3, H, W)` in [0, 1], any size."""
        square = transforms.normalize(middle_square(images, resize, crop), list(IMAGENET_MEAN), list(IMAGENET_STD))
        features: Tensor = self.model(pixel_values=square).last_hidden_state[:, 0]
        return features


def in_steps(images: Tensor) -> Tensor:
    """Return images in [0, 1] rounded to 256 levels, as floats in [0, 255]; non-finite values become finite."""
    return (images.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1) * 255).round()


def middle_square(images: Tensor, resize: int, crop: int) -> Tensor:
    """Resize the shorter side with Pillow's bicubic filter and center-crop: `(B, 3, crop, crop)` in [0, 1], 256 levels.

    Uses torchvision's transforms of Pillow images, like the reference implementations, one image at a time.
    """
    squares = []
    for image in in_steps(images).to(torch.uint8).cpu():
        resized = transforms.resize(transforms.to_pil_image(image), [resize], interpolation=InterpolationMode.BICUBIC)
        squares.append(transforms.pil_to_tensor(transforms.center_crop(resized, [crop, crop])))
    return torch.stack(squares).to(images.device).float() / 255


def load_transformers(kind: str, name: str, folder: Path) -> Any:  # noqa: ANN401  the class of transformers that `kind` names
    """Load a transformers model in float32, if the folder is complete and has the architecture of `name`."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # else loading one tower of a CLIP pair lists the other's weights as unused
    transformers.logging.disable_progress_bar()
    try:
        # safetensors is preferred over pytorch_model.bin, which is read with weights_only=True.
        model, info = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **_tower(kind, folder)
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{name}: cannot load a {kind} from {folder} ({reason})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
    if missing := sorted(info["missing_keys"]):  # transformers would initialise these at random
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(f"{name}: {folder} lacks weights of a {kind}: {', '.join(missing[:3])}{more}")
    architecture = (TEXT_ARCHITECTURES if "Text" in kind else ARCHITECTURES)[name]
    found = {key: getattr(model.config, key, None) for key in architecture}
    if found != architecture:
        differing = ", ".join(f"{key} {found[key]} for {wanted}" for key, wanted in architecture.items() if found[key] != wanted)
        raise UserError(f"{name}: {folder} holds another architecture ({differing}), whose numbers must not carry that name")
    return model


def _tower(kind: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of one tower of a whole CLIP, as an argument for `from_pretrained`; nothing for other models.

    Only the whole CLIP's configuration has the right length of the embeddings for sure; a tower's own may be left at its default.
    """
    if not kind.startswith("CLIP") or json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") != "clip":
        return {}
    whole: Any = transformers.CLIPConfig.from_pretrained(folder, local_files_only=True)
    tower = whole.text_config if "Text" in kind else whole.vision_config
    tower.projection_dim = whole.projection_dim
    return {"config": tower}
