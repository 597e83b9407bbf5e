"""`fashiongen tiny build`: trains the tiny checkpoints from scratch, resumable, and describes them in `BUILD.json`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from fashiongen.errors import UserError
from fashiongen.metrics import SSIM, ColourError
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.nn.parts import load_codec, load_noise_schedule, load_part, load_prompt_encoder, load_unet
from fashiongen.tiny import image_prompt, stages
from fashiongen.tiny.images import SIZE, SQUARE, RenderedImages, people_images, shop_images

SHIPPED_LIMIT = 10 * 1000 * 1000  # bytes, of everything except the backbones' stand-ins
BACKBONES: dict[str, Callable[[], torch.nn.Module]] = {"resnet18": stages.build_resnet18, "alexnet": stages.build_alexnet}
BACKBONES_LIMIT = 3 * 1000 * 1000  # bytes, of the stand-ins
DRAWN = 100  # images sampled from a denoiser for its evaluation
TRAINED_ON, JUDGED_ON = "pretrain", "val"  # namespaces of the wardrobe; recipes train on `train` and are tested on `test`


@dataclass(frozen=True)
class Plan:
    """Sizes and step counts of a build; the shipped checkpoints were built with the defaults."""

    items: int = 20_000
    people: int = 6_000
    held_out: int = 1_000
    batch: int = 32
    classifier_steps: int = 1_500
    clip_steps: int = 1_200
    vae_steps: int = 2_500
    unet_steps: int = 2_200
    ip_adapter_steps: int = 1_200
    backbone_items: int = 10_000
    backbone_steps: int = 1_500


def build(out: str | Path, seed: int = 0, plan: Plan | None = None) -> Path:
    """Build the tiny checkpoints into `out`; a second call resumes a build that was killed.

    Writes `sd/` (a Stable-Diffusion-style folder), `clip/`, `ip_adapter/`, `classifier/`, and stand-ins for ImageNet's `resnet18/` and
    `alexnet/`, all safetensors in bfloat16, and `BUILD.json`: command, seed, fingerprints of the training images, times, and the quality
    on held-out items and people. All training images come from the wardrobe's namespace `pretrain`, all evaluation images from `val`.

    Raises:
        UserError: if `out` already contains a finished build, or the result is too large to ship.
    """
    out, plan = Path(out), plan or Plan()
    if (out / "BUILD.json").is_file():
        raise UserError(f"{out} contains a finished build: remove it, or choose another folder with --out")
    work = out.with_name(f".{out.name}.build")
    _Build(work, seed, plan).run()
    weights = work / "weights"
    of_backbones, others = shipped_sizes(weights)
    if others > SHIPPED_LIMIT or of_backbones > BACKBONES_LIMIT:
        sizes = f"{others:,} bytes and {of_backbones:,} of backbones"
        raise UserError(f"{weights}: {sizes} are more than the {SHIPPED_LIMIT:,} and {BACKBONES_LIMIT:,} that may be shipped")
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(weights, out)
    return out


def shipped_sizes(weights: Path) -> tuple[int, int]:
    """Return the size in bytes of a build's backbone stand-ins, and of everything else."""
    sizes = {file.relative_to(weights): file.stat().st_size for file in weights.rglob("*") if file.is_file()}
    of_backbones = sum(size for file, size in sizes.items() if file.parts[0] in BACKBONES)
    return of_backbones, sum(sizes.values()) - of_backbones


class _Build:
    """One build: each stage reads the folders of the earlier stages, and is skipped if its own folder exists."""

    def __init__(self, work: Path, seed: int, plan: Plan) -> None:
        self.work, self.seed, self.plan = work, seed, plan
        self.weights, self.state = work / "weights", work / "state"
        self.report = work / "report.json"
        self._images: dict[str, RenderedImages] = {}

    def run(self) -> None:
        all_stages: dict[str, Callable[[], dict[str, Any]]] = {
            "classifier": self.classifier,
            "sd/vae": self.vae,
            "clip": self.clip,
            "sd": self.stable_diffusion,
            "ip_adapter": self.ip_adapter,
            **{name: partial(self.backbone, name) for name in BACKBONES},
        }
        for name, stage in all_stages.items():
            if name not in self.known():
                started = time.monotonic()
                torch.manual_seed(
                    zlib.crc32(f"{self.seed}/{name}".encode())
                )  # the same initial state, no matter which stages ran before in this process
                facts = stage()
                self.note(name, facts | {"seconds": round(time.monotonic() - started)})
        facts = {
            "command": f"fashiongen tiny build --seed {self.seed}",
            "seed": self.seed,
            "plan": vars(self.plan),
            "namespaces": {"trained_on": TRAINED_ON, "judged_on": JUDGED_ON},
            "size": list(SIZE),
            "training_images_sha256": {name: self.rendered(name).fingerprint() for name in ("shop", "people", "square")},
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "resvg-py")},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "stages": self.known(),
        }
        for config in self.weights.rglob("config.json"):
            content = json.loads(config.read_text())
            if content.pop("_name_or_path", None) is not None:  # diffusers stores the path on this machine that a part was loaded from
                config.write_text(json.dumps(content, indent=2) + "\n")
        (self.weights / "BUILD.json").write_text(json.dumps(facts, indent=2) + "\n")

    def known(self) -> dict[str, Any]:
        return json.loads(self.report.read_text()) if self.report.is_file() else {}

    def note(self, name: str, facts: dict[str, Any]) -> None:
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.write_text(json.dumps(self.known() | {name: facts}, indent=2))
        print(f"{name}: {facts}", flush=True)

    def rendered(self, name: str) -> RenderedImages:
        makers: dict[str, Callable[[], RenderedImages]] = {
            "shop": lambda: shop_images(self.seed, TRAINED_ON, self.plan.items, self.work / "images"),
            "people": lambda: people_images(self.seed, TRAINED_ON, self.plan.people, self.work / "images"),
            "square": lambda: shop_images(self.seed, TRAINED_ON, self.plan.backbone_items, self.work / "images", SQUARE),
            "held-out square": lambda: shop_images(self.seed, JUDGED_ON, self.plan.held_out, self.work / "images", SQUARE),
            "held-out shop": lambda: shop_images(self.seed, JUDGED_ON, self.plan.held_out, self.work / "images"),
            "held-out people": lambda: people_images(self.seed, JUDGED_ON, self.plan.held_out, self.work / "images"),
        }
        if name not in self._images:
            self._images[name] = makers[name]()
        return self._images[name]

    def classifier(self) -> dict[str, Any]:
        network = stages.train_classifier(self.rendered("shop"), self.plan.classifier_steps, 2 * self.plan.batch, self.state, self.seed)
        network.save_pretrained(self.weights / "classifier", dtype=torch.bfloat16)
        network = AttributeClassifier.from_pretrained(self.weights / "classifier")
        return {"held_out_accuracy": stages.judge_classifier(network, self.rendered("held-out shop"))}

    def clip(self) -> dict[str, Any]:
        shop = self.rendered("shop")
        tokenizer = stages.build_tokenizer(shop.captions + shop.short_captions, self.weights / "sd" / "tokenizer")
        batch = 4 * self.plan.batch
        network = stages.train_clip(
            tokenizer, self.rendered("shop"), self.rendered("people"), self.plan.clip_steps, batch, self.state, self.seed
        )
        stages.round_to_bfloat16(network).save_pretrained(self.weights / "clip")
        tokenizer.save_pretrained(self.weights / "clip")
        shipped: CLIPModel = CLIPModel.from_pretrained(self.weights / "clip", dtype=torch.float32)
        return {
            f"held_out_recall_at_1_among_50_{kind}": stages.judge_clip(shipped, tokenizer, self.rendered(f"held-out {kind}"))
            for kind in ("shop", "people")
        }

    def vae(self) -> dict[str, Any]:
        network = stages.train_vae(
            self.rendered("shop"), self.rendered("people"), self.plan.vae_steps, self.plan.batch // 2, self.state, self.seed
        )
        stages.round_to_bfloat16(network).save_pretrained(self.weights / "sd" / "vae")
        shipped = AutoencoderKL.from_pretrained(self.weights / "sd" / "vae", dtype=torch.float32)
        facts: dict[str, Any] = {"scaling_factor": shipped.config.scaling_factor}
        judge = AttributeClassifier.from_pretrained(self.weights / "classifier")
        for kind in ("shop", "people"):
            rendered = self.rendered(f"held-out {kind}")
            restored, truth = stages.reconstruct(shipped, rendered), rendered.images.float() / 255
            for name, metric in (("ssim", SSIM()), ("foreground_colour_error", ColourError(region="foreground"))):
                metric.update(restored, truth, rendered.masks)
                facts[f"held_out_{kind}_{name}"] = round(metric.compute().item(), 4)
            if kind == "shop":
                read = judge.read(restored)
                facts["held_out_shop_attributes_read"] = {
                    name: (read[name] == labels).float().mean().item() for name, labels in rendered.labels.items()
                }
        return facts

    def stable_diffusion(self) -> dict[str, Any]:
        folder = self.weights / "sd"
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(self.weights / "clip", dtype=torch.float32)
        schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
        shop = self.rendered("shop")
        latents = stages.latents_of(vae, shop) * vae.config.scaling_factor
        plan = self.plan
        unet = stages.train_unet(schedule, text_encoder, tokenizer, latents, shop, plan.unet_steps, plan.batch, self.state, self.seed)
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.to(torch.bfloat16).save_pretrained(folder)
        return self.judge_drawing(StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32))

    def ip_adapter(self) -> dict[str, Any]:
        plan, shop, folder = self.plan, self.rendered("shop"), str(self.weights / "sd")
        codec, schedule, prompts = load_codec(folder), load_noise_schedule(folder), load_prompt_encoder(folder)
        encoder = load_part(CLIPVisionModelWithProjection, str(self.weights / "clip"))
        network = image_prompt.ImagePrompted(load_unet(folder), encoder.config.projection_dim)
        latents = stages.latents_of(codec.vae, shop) * codec.scaling

        def encode(captions: list[str]) -> torch.Tensor:
            return torch.cat([prompts(captions[start : start + 500]) for start in range(0, len(captions), 500)])

        full, short, empty = encode(shop.captions), encode(shop.short_captions), encode([""])
        images = image_prompt.image_embeddings(encoder, shop)
        trained = image_prompt.train_image_prompt(
            network, schedule, full, short, empty, images, latents, plan.ip_adapter_steps, plan.batch, self.state, self.seed
        )
        state = {key: value.to(torch.bfloat16).contiguous() for key, value in trained.public_state().items()}
        (self.weights / "ip_adapter").mkdir(exist_ok=True)
        save_file(state, self.weights / "ip_adapter" / "ip_adapter.safetensors")

        facts, judge = {}, AttributeClassifier.from_pretrained(self.weights / "classifier")
        for kind in ("shop", "people"):
            rendered = self.rendered(f"held-out {kind}")
            shown, told = image_prompt.image_embeddings(encoder, rendered)[:DRAWN], encode(rendered.short_captions[:DRAWN])
            read = judge.read((codec.decode(image_prompt.draw_image_prompts(trained, schedule, told, empty, shown, self.seed)) + 1) / 2)
            facts[f"held_out_{kind}_shown_drawn_and_read"] = {
                name: (read[name] == labels[:DRAWN]).float().mean().item() for name, labels in rendered.labels.items()
            }
        return facts

    def backbone(self, name: str) -> dict[str, Any]:
        network = BACKBONES[name]()
        steps, batch = self.plan.backbone_steps, 2 * self.plan.batch
        trained = stages.train_backbone(name, network, self.rendered("square"), steps, batch, self.state, self.seed)
        (self.weights / name).mkdir(exist_ok=True)
        save_file(stages.round_to_bfloat16(trained).state_dict(), self.weights / name / "model.safetensors")
        return {"held_out_accuracy": stages.judge_backbone(trained.float(), self.rendered("held-out square"))}

    @torch.no_grad()
    def judge_drawing(self, pipeline: StableDiffusionPipeline) -> dict[str, Any]:
        """Sample images for held-out captions with the pipeline, and classify their category and attributes."""
        pipeline.set_progress_bar_config(disable=True)
        rendered = self.rendered("held-out shop")
        generator = torch.Generator().manual_seed(self.seed)
        options = {"num_inference_steps": 25, "guidance_scale": 3.0, "height": SIZE[0], "width": SIZE[1], "output_type": "pt"}
        drawn = pipeline(rendered.captions[:DRAWN], generator=generator, **options).images
        judge = AttributeClassifier.from_pretrained(self.weights / "classifier")
        read = judge.read(drawn)
        return {
            "held_out_captions_drawn_and_read": {
                name: (read[name] == labels[:DRAWN]).float().mean().item() for name, labels in rendered.labels.items()
            }
        }
