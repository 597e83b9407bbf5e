"""`fashiongen tiny build`: trains the tiny checkpoints from scratch, resumable, and describes them in `BUILD.json`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection, SiglipVisionModel

from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.parts import load_codec, load_noise_schedule, load_part, load_prompt_encoder, load_unet
from fashiongen.tiny import classifiers, clip, denoiser, image_prompt, vae
from fashiongen.tiny.captions import caption_forms, short_caption, texts_of
from fashiongen.tiny.images import BOTTOMS_AND_DRESSES, SIZE, SQUARE, RenderedImages, people_images, shop_images
from fashiongen.tiny.training import AnyModule, Draws, Run
from fashiongen.wardrobe import CATEGORIES

SHIPPED_LIMIT = 20 * 1000 * 1000  # bytes
DRAWN = 1000  # captions drawn to judge the denoiser
PROMPTED = 100  # images drawn to judge the image prompt and inpainting
TRAINED_ON, JUDGED_ON = "pretrain", "val"  # namespaces of the wardrobe; recipes train on `train` and are tested on `test`
Facts = dict[str, Any]
# What a stage was trained on and is shipped with: a stage can be reused only together with these.
TRAINED_WITH = {
    "second/clip": ("clip",),
    "sd": ("sd/vae", "clip"),
    "ip_adapter": ("sd/vae", "clip", "sd"),
    "inpainting": ("sd/vae", "clip", "sd"),
}


@dataclass(frozen=True)
class Plan:
    """Sizes and step counts of a build; the shipped checkpoints were built with the defaults."""

    items: int = 20_000
    people: int = 6_000
    held_out: int = 1_000
    batch: int = 32
    classifier_steps: int = 1_500
    worn_classifier_steps: int = 3_000
    vae_steps: int = 14_000
    clip_steps: int = 3_000
    siglip_steps: int = 2_000
    unet_steps: int = 10_000
    ip_adapter_steps: int = 3_000
    inpainting_steps: int = 4_000
    backbone_items: int = 10_000
    backbone_steps: int = 1_500


def build(
    out: str | Path,
    seed: int = 0,
    plan: Plan | None = None,
    device: str = "cpu",
    precision: str = "auto",
    reuse: Sequence[str] = (),
) -> Path:
    """Build the tiny checkpoints into `out`; a second call resumes a build that was killed.

    Writes `BUILD.json` and, all as safetensors in bfloat16: `sd/` (a Stable-Diffusion-style folder), `inpainting/` (its denoiser with nine
    input channels), `clip/`, `siglip/`, `ip_adapter/`, `classifier/` (of shop images; the metrics' network), `worn_classifier/` (of
    garments on people), `second/` (a classifier and a CLIP pair of another seed, trained on other items) and stand-ins for ImageNet's
    `resnet18/` and `alexnet/`. All training images come from the wardrobe's namespace `pretrain`, all evaluation images from `val`.

    Args:
        out: folder to write.
        seed: seed for initial weights, images and order.
        plan: sizes and step counts.
        device: where to train, such as `cpu` or `cuda`.
        precision: `32`, `bf16` (networks run in bfloat16, weights and losses stay in float32), or `auto`: bf16 where the device has it.
        reuse: stages to copy from the shipped checkpoints instead of training them.

    Raises:
        UserError: if `out` already contains a finished build, or an unfinished one of another seed; if a stage to reuse is unknown, the
            device is missing, or the result is too large to ship.
    """
    out, plan = Path(out), plan or Plan()
    if (out / "BUILD.json").is_file():
        raise UserError(f"{out} contains a finished build: remove it, or choose another folder with --out")
    work = out.with_name(f".{out.name}.build")
    run = Run(work / "state", seed, _device(device), _in_bfloat16(precision, device))
    stages = _Build(work, run, plan, reuse)
    _same_settings(work, {"seed": seed, "plan": vars(plan)})
    stages.run()
    weights = work / "weights"
    if (size := shipped_size(weights)) > SHIPPED_LIMIT:
        raise UserError(f"{weights}: {size:,} bytes are more than the {SHIPPED_LIMIT:,} that may be shipped")
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(weights, out)
    return out


def shipped_size(weights: Path) -> int:
    """Return the size in bytes of a build."""
    return sum(file.stat().st_size for file in weights.rglob("*") if file.is_file())


def _same_settings(work: Path, settings: dict[str, Any]) -> None:
    """Refuse to resume a build that was begun with another seed or plan: its stages would not belong together."""
    path = work / "settings.json"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n")
    elif (begun := json.loads(path.read_text())) != settings:
        raise UserError(f"{work} holds an unfinished build with --seed {begun['seed']}: remove it, or choose another folder with --out")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: torch cannot use it here ({str(error).splitlines()[0]}); choose cpu") from error
    if device.type == "cuda":  # two runs on one device give the same files
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
    return device


def _in_bfloat16(precision: str, device: str) -> bool:
    if precision not in ("auto", "32", "bf16"):
        raise UserError(f"--precision {precision}: choose auto, 32 or bf16")
    if precision != "auto":
        return precision == "bf16"
    # On a CPU without these instructions bfloat16 is emulated, and slower than float32.
    return torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_avx512_bf16_supported()


class _Build:
    """One build: each stage reads the folders of the earlier stages, and is skipped if it was reported before."""

    def __init__(self, work: Path, run: Run, plan: Plan, reuse: Sequence[str] = ()) -> None:
        self.work, self.settings, self.plan, self.reuse = work, run, plan, tuple(reuse)
        self.weights = work / "weights"
        self.report = work / "report.json"
        self._images: dict[str, RenderedImages] = {}
        if unknown := sorted(set(reuse) - set(self.stages)):
            raise UserError(f"--reuse {' '.join(unknown)}: no such stage; the stages are {' '.join(self.stages)}")
        for name in reuse:
            if lacking := [other for other in TRAINED_WITH.get(name, ()) if other not in reuse]:
                raise UserError(f"--reuse {name}: it was trained with the shipped {', '.join(lacking)}: add {' '.join(lacking)}")

    @cached_property
    def stages(self) -> dict[str, Callable[[], Facts]]:
        """Every stage under the name of the folder that it writes, in order."""
        return {
            "classifier": self.classifier,
            "second/classifier": self.second_classifier,
            "worn_classifier": self.worn_classifier,
            "sd/vae": self.vae,
            "clip": self.clip,
            "second/clip": self.second_clip,
            "siglip": self.siglip,
            "sd": self.stable_diffusion,
            "ip_adapter": self.ip_adapter,
            "inpainting": self.inpainting,
            **{name: partial(self.backbone, name) for name in classifiers.BACKBONES},
        }

    def run(self) -> None:
        """Run or reuse every stage that was not reported before, then write BUILD.json."""
        for name in self.stages:
            if name not in self.known():
                self.note(name, self.reused(name) if name in self.reuse else self.trained(name))
        reuse = f" --reuse {' '.join(self.reuse)}" if self.reuse else ""
        used = ("shop", "more shop", "people", "dressed people", "more people")
        facts = {
            "command": f"fashiongen tiny build --seed {self.seed}{reuse}",
            "seed": self.seed,
            "plan": vars(self.plan),
            "namespaces": {"trained_on": TRAINED_ON, "judged_on": JUDGED_ON},
            "size": list(SIZE),
            "training_images_sha256": {name: self.rendered(name).fingerprint() for name in used},
            "stages": self.known(),
        }
        for config in self.weights.rglob("config.json"):
            content = json.loads(config.read_text())
            if content.pop("_name_or_path", None) is not None:  # diffusers stores the path on this machine that a part was loaded from
                config.write_text(json.dumps(content, indent=2) + "\n")
        (self.weights / "BUILD.json").write_text(json.dumps(facts, indent=2) + "\n")

    def trained(self, name: str) -> Facts:
        """Run one stage, and return its quality, and where and how long it was trained."""
        started = time.monotonic()
        # The same initial weights, no matter which stages ran before in this process.
        torch.manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))
        facts = self.stages[name]()
        device = self.settings.device
        return facts | {
            "seconds": round(time.monotonic() - started),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{platform.machine()}, {torch.get_num_threads()} threads",
            "precision": "bf16" if self.settings.bfloat16 else "32",
            "versions": {library: version(library) for library in ("torch", "diffusers", "transformers", "resvg-py")},
        }

    def reused(self, name: str) -> Facts:
        """Copy one stage of the shipped checkpoints, and return what their BUILD.json says of it."""
        shipped: Facts = json.loads((tiny_weights() / "BUILD.json").read_text())
        if name not in shipped["stages"]:
            raise UserError(f"--reuse {name}: the shipped checkpoints have no such stage; they have {' '.join(shipped['stages'])}")
        # The tokenizer in `sd` is made with the CLIP pair.
        for folder in ("clip", "sd/tokenizer") if name == "clip" else (name,):
            shutil.copytree(tiny_weights() / folder, self.weights / folder, dirs_exist_ok=True)
        # Builds before this one had one machine and one set of versions for all stages.
        common = {"versions": shipped.get("versions"), "device": shipped.get("machine"), "precision": "32"}
        facts: Facts = shipped["stages"][name]
        return {key: value for key, value in common.items() if value} | facts | {"reused": True}

    def known(self) -> Facts:
        """Return the facts of every finished stage."""
        facts: Facts = json.loads(self.report.read_text()) if self.report.is_file() else {}
        return facts

    def note(self, name: str, facts: Facts) -> None:
        """Report a finished stage."""
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.with_suffix(".tmp").write_text(json.dumps(self.known() | {name: facts}, indent=2))
        os.replace(self.report.with_suffix(".tmp"), self.report)
        print(f"{name}: {facts}", flush=True)

    @property
    def seed(self) -> int:
        """The build's seed."""
        return self.settings.seed

    def rendered(self, name: str) -> RenderedImages:
        """Return one set of images, rendered at its first use, on the build's device.

        "more" images are those of the second pair of evaluators: no other network has seen them.
        """
        plan, images = self.plan, self.work / "images"
        tops, others = partial(people_images, self.seed), partial(people_images, self.seed, categories=BOTTOMS_AND_DRESSES, name="dressed")
        makers: dict[str, Callable[[], RenderedImages]] = {
            "shop": lambda: shop_images(self.seed, TRAINED_ON, range(plan.items), images),
            "more shop": lambda: shop_images(self.seed, TRAINED_ON, range(plan.items, 2 * plan.items), images),
            "people": lambda: tops(TRAINED_ON, range(plan.people), images),
            "dressed people": lambda: others(TRAINED_ON, range(plan.people, 2 * plan.people), images),
            "more people": lambda: tops(TRAINED_ON, range(2 * plan.people, 2 * plan.people + plan.people // 2), images),
            "all people": lambda: self.rendered("people").joined(self.rendered("dressed people")),
            "square": lambda: shop_images(self.seed, TRAINED_ON, range(plan.backbone_items), images, SQUARE),
            "held-out square": lambda: shop_images(self.seed, JUDGED_ON, range(plan.held_out), images, SQUARE),
            "held-out shop": lambda: shop_images(self.seed, JUDGED_ON, range(plan.held_out), images),
            "held-out people": lambda: tops(JUDGED_ON, range(plan.held_out), images),
            "held-out dressed people": lambda: others(JUDGED_ON, range(plan.held_out, 2 * plan.held_out), images),
            "held-out all people": lambda: self.rendered("held-out people").joined(self.rendered("held-out dressed people")),
        }
        if name not in self._images:
            self._images[name] = makers[name]().to(self.settings.device)
        return self._images[name]

    def load_classifier(self, name: str = "classifier") -> AttributeClassifier:
        """Return one of the classifiers as it will be shipped, on the build's device."""
        return AttributeClassifier.from_pretrained(self.weights / name).to(self.settings.device).requires_grad_(False)

    def classifier(self) -> Facts:
        """Train the metrics' classifier."""
        return self.train_classifier("classifier", "shop", "held-out shop", self.plan.classifier_steps)

    def second_classifier(self) -> Facts:
        """Train a classifier that may take part in losses and rewards."""
        return self.train_classifier("second/classifier", "more shop", "held-out shop", self.plan.classifier_steps)

    def train_classifier(self, name: str, trained_on: str, judged_on: str, steps: int) -> Facts:
        network = classifiers.train_classifier(self.settings, name, self.rendered(trained_on), steps, 2 * self.plan.batch)
        network.save_pretrained(self.weights / name, dtype=torch.bfloat16)
        return {"held_out_accuracy": classifiers.judge_classifier(self.load_classifier(name), self.rendered(judged_on))}

    def worn_classifier(self) -> Facts:
        """Train the classifier of garments on people."""
        for name in ("all people", "held-out people", "held-out dressed people"):
            self._images[f"{name}, worn"] = classifiers.worn_garments(self.rendered(name))
        network = classifiers.train_classifier(
            self.settings, "worn_classifier", self.rendered("all people, worn"), self.plan.worn_classifier_steps, 2 * self.plan.batch
        )
        network.save_pretrained(self.weights / "worn_classifier", dtype=torch.bfloat16)
        shipped = self.load_classifier("worn_classifier")
        return {
            f"held_out_accuracy_{kind}": classifiers.judge_classifier(shipped, self.rendered(f"held-out {name}, worn"))
            for kind, name in (("tops", "people"), ("bottoms_and_dresses", "dressed people"))
        }

    def vae(self) -> Facts:
        """Train the autoencoder."""
        network = vae.train_vae(
            self.settings,
            self.rendered("shop"),
            self.rendered("all people"),
            self.load_classifier("second/classifier"),
            self.plan.vae_steps,
            self.plan.batch // 2,
        )
        round_to_bfloat16(network).save_pretrained(self.weights / "sd" / "vae")
        shipped = AutoencoderKL.from_pretrained(self.weights / "sd" / "vae", dtype=torch.float32).to(self.settings.device)
        held_out = {kind.replace(" ", "_"): self.rendered(f"held-out {kind}") for kind in ("shop", "people", "dressed people")}
        return {"scaling_factor": shipped.config.scaling_factor} | vae.judge_vae(shipped, held_out, self.load_classifier())

    def clip(self) -> Facts:
        """Learn the tokenizer and train the CLIP pair."""
        texts = [text for kind in ("shop", "people") for form in texts_of(self.rendered(kind)).values() for text in form]
        clip.build_tokenizer(texts, self.weights / "sd" / "tokenizer")
        return self.train_clip("clip", "shop", "all people")

    def second_clip(self) -> Facts:
        """Train a CLIP pair that may take part in losses and rewards; it has the same tokenizer."""
        return self.train_clip("second/clip", "more shop", "more people")

    def train_clip(self, name: str, shop: str, people: str) -> Facts:
        tokenizer, device = self.tokenizer(), self.settings.device
        steps, batch = self.plan.clip_steps, 4 * self.plan.batch
        network = clip.train_clip(self.settings, name, tokenizer, self.rendered(shop), self.rendered(people), steps, batch)
        round_to_bfloat16(network).save_pretrained(self.weights / name)
        tokenizer.save_pretrained(self.weights / name)
        shipped: CLIPModel = CLIPModel.from_pretrained(self.weights / name, dtype=torch.float32)
        nn.Module.to(shipped, device)
        facts = {}
        for kind in ("shop", "people"):
            rendered = self.rendered(f"held-out {kind}")
            for form, suffix in (("full", ""), ("structured", "_four_attributes")):
                recall = clip.judge_pairs(shipped, tokenizer, clip.garment_crops, rendered, texts_of(rendered)[form])
                facts[f"held_out_recall_at_1_among_50_{kind}{suffix}"] = round(recall, 4)
        return facts

    def tokenizer(self) -> CLIPTokenizer:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.weights / "sd" / "tokenizer")
        return tokenizer

    def siglip(self) -> Facts:
        """Train the SigLIP-like image encoder; its text encoder is not shipped."""
        steps, batch = self.plan.siglip_steps, 4 * self.plan.batch
        network = clip.train_siglip(self.settings, self.tokenizer(), self.rendered("shop"), self.rendered("all people"), steps, batch)
        encoder = SiglipVisionModel(network.vision_model.config)
        encoder.load_state_dict(network.vision_model.state_dict())
        round_to_bfloat16(encoder).save_pretrained(self.weights / "siglip")
        facts = {}
        for kind in ("shop", "people"):
            rendered = self.rendered(f"held-out {kind}")
            recall = clip.judge_pairs(network, self.tokenizer(), clip.squares, rendered, rendered.captions)
            facts[f"held_out_recall_at_1_among_50_{kind}"] = round(recall, 4)
        return facts

    def stable_diffusion(self) -> Facts:
        """Train the denoiser, and write the folder of the whole pipeline."""
        folder, plan, device = self.weights / "sd", self.plan, self.settings.device
        schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
        text_encoder: nn.Module = CLIPTextModel.from_pretrained(self.weights / "clip", dtype=torch.float32)
        text_encoder.to(device)
        codec = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).to(device)
        latents = vae.latents_of(codec, self.rendered("shop")) * codec.config.scaling_factor
        with torch.no_grad():
            blank = codec.encode(torch.ones(1, 3, *SIZE, device=device)).latent_dist.mode() * codec.config.scaling_factor
            captions = caption_forms(
                self.rendered("shop"), lambda texts: text_encoder(clip.tokenize(self.tokenizer(), texts, device)).last_hidden_state
            )
        unet = denoiser.train_unet(self.settings, schedule, captions, latents, blank, plan.unet_steps, plan.batch)
        pipeline = StableDiffusionPipeline(
            vae=codec,
            text_encoder=text_encoder,
            tokenizer=self.tokenizer(),
            unet=unet,
            scheduler=DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.bfloat16).save_pretrained(folder)
        shipped = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        rendered, judge = self.rendered("held-out shop"), self.load_classifier()
        facts = {}
        for form, name, count in (
            ("full", "captions", DRAWN),
            ("structured", "four_attribute_captions", PROMPTED),
            ("prompt", "prompts", PROMPTED),
        ):
            read = denoiser.judge_drawing(shipped, rendered, texts_of(rendered)[form][:count], judge, self.settings)
            facts[f"held_out_{name}_drawn_and_read"] = {"category": read["category"]} if form == "prompt" else read
        return facts

    def encode_captions(self, captions: list[str]) -> Tensor:
        """Return the shipped text encoder's hidden states, (N, L, C)."""
        states: Tensor = load_prompt_encoder(str(self.weights / "sd")).to(self.settings.device)(captions)
        return states

    def ip_adapter(self) -> Facts:
        """Train the image prompt of the frozen denoiser."""
        plan, shop, folder, device = self.plan, self.rendered("shop"), str(self.weights / "sd"), self.settings.device
        codec, schedule = load_codec(folder).to(device), load_noise_schedule(folder)
        encoder = load_part(CLIPVisionModelWithProjection, str(self.weights / "clip")).to(device)
        network = image_prompt.ImagePrompted(load_unet(folder), encoder.config.projection_dim)
        latents = vae.latents_of(codec.vae, shop) * codec.scaling
        images = image_prompt.image_embeddings(encoder, shop)
        trained = image_prompt.train_image_prompt(
            self.settings,
            network,
            schedule,
            caption_forms(shop, self.encode_captions),
            images,
            latents,
            plan.ip_adapter_steps,
            plan.batch,
        )
        state = {key: value.to(torch.bfloat16).cpu().contiguous() for key, value in trained.public_state().items()}
        (self.weights / "ip_adapter").mkdir(exist_ok=True)
        save_file(state, self.weights / "ip_adapter" / "ip_adapter.safetensors")

        facts, judge, empty = {}, self.load_classifier(), self.encode_captions([""])
        for kind in ("shop", "people"):
            rendered = self.rendered(f"held-out {kind}").first(PROMPTED)
            shown = image_prompt.image_embeddings(encoder, rendered)
            told = self.encode_captions([short_caption(CATEGORIES[label]) for label in rendered.labels["category"].tolist()])
            drawn = codec.decode(image_prompt.draw_image_prompts(self.settings, trained, schedule, told, empty, shown))
            facts[f"held_out_{kind}_shown_drawn_and_read"] = rendered.share_read(judge.read((drawn + 1) / 2))
        return facts

    def inpainting(self) -> Facts:
        """Train the inpainting denoiser, which starts as the denoiser."""
        plan, folder, device = self.plan, self.weights / "sd", self.settings.device
        everything = self.rendered("shop").joined(self.rendered("all people"))
        codec, schedule = load_codec(str(folder)).to(device), load_noise_schedule(str(folder))
        masks = denoiser.random_masks(everything, Draws(self.seed, 0, device))
        latents = vae.latents_of(codec.vae, everything) * codec.scaling
        masked = denoiser.masked_latents(codec.vae, everything, masks)
        captions = caption_forms(everything, self.encode_captions)
        network = denoiser.widened(load_unet(str(folder)))
        trained = denoiser.train_inpainting(
            self.settings, schedule, network, captions, latents, masks, masked, plan.inpainting_steps, plan.batch
        )
        round_to_bfloat16(trained).save_pretrained(self.weights / "inpainting" / "unet")
        unet, judge, empty = (
            load_unet(str(self.weights / "inpainting")).to(device),
            self.load_classifier("worn_classifier"),
            self.encode_captions([""]),
        )
        facts = {}
        for name, kind in (("tops", "people"), ("bottoms_and_dresses", "dressed people")):
            people = self.rendered(f"held-out {kind}").first(PROMPTED)
            photos = denoiser.repaint(self.settings, unet, schedule, codec, people, self.encode_captions(people.captions), empty)
            worn = classifiers.worn_garments(replace(people, images=(photos * 255).round().to(torch.uint8)))
            facts[f"held_out_{name}_repainted_and_read"] = people.share_read(judge.read(worn.images.float() / 255))
        return facts

    def backbone(self, name: str) -> Facts:
        """Train one stand-in for a network of ImageNet."""
        network = classifiers.BACKBONES[name]()
        steps, batch = self.plan.backbone_steps, 2 * self.plan.batch
        trained = classifiers.train_backbone(self.settings, name, network, self.rendered("square"), steps, batch)
        (self.weights / name).mkdir(exist_ok=True)
        save_file(round_to_bfloat16(trained).cpu().state_dict(), self.weights / name / "model.safetensors")
        trained = trained.float().to(self.settings.device)
        return {"held_out_accuracy": classifiers.judge_backbone(trained, self.rendered("held-out square"))}


def round_to_bfloat16(module: AnyModule) -> AnyModule:
    """Round the weights to the precision of the shipped files."""
    return nn.Module.to(module, torch.bfloat16)
