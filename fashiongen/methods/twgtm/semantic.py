"""TWGTM's semantic abstraction module: a QFormer picks what the garment's prompt asks for from CLIP's image tokens (eqs. 3, 4).

Shapes: B samples, L image tokens of width E, T text tokens and N queries of width D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class SemanticAbstraction(nn.Module):
    """Queries attend to themselves and the text, and to the image's tokens (BLIP-2's QFormer, arXiv 2301.12597)."""

    def __init__(self, image_width: int, width: int, queries: int, layers: int, heads: int) -> None:
        """Build the QFormer with random weights.

        Args:
            image_width: E, of CLIP's last hidden states.
            width: D, of the text features and of the UNet's cross-attention.
            queries: N.
            layers: of the QFormer; every second one attends to the image, as in BLIP-2.
            heads: of its attention.
        """
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        config = Blip2QFormerConfig(
            vocab_size=1,  # the text arrives encoded
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            encoder_hidden_size=image_width,
            cross_attention_frequency=2,
            use_qformer_text_input=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.qformer = Blip2QFormerModel(config)
        last = self.qformer.encoder.layer[-1]
        for part in (last.intermediate, last.output):  # they serve the text tokens, whose last states nobody reads
            part.requires_grad_(False)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return F_QF = QFormer(F_CLIP.S, T_p), (B, N, D) (eq. 3).

        Args:
            tokens: F_CLIP.S, CLIP's last hidden states, (B, L, E).
            text: T_p, the encoded prompt, (B, T, D).
        """
        count = self.queries.shape[1]
        tokens, text = tokens.to(self.queries), text.to(self.queries)
        inputs = torch.cat([self.queries.expand(len(tokens), -1, -1), text], dim=1)
        states: Tensor = self.qformer(query_embeds=inputs, query_length=count, encoder_hidden_states=tokens).last_hidden_state
        return states[:, :count]


class PlainTokens(nn.Module):
    """CLIP's tokens without a QFormer (Table 4, variant 8), projected to the UNet's width."""

    def __init__(self, image_width: int, width: int) -> None:
        """Project from E to D."""
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(image_width, width), nn.LayerNorm(width))

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Return (B, L, D); the text is not used."""
        projected: Tensor = self.projection(tokens.to(next(self.parameters())))
        return projected
