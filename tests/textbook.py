"""The model with both attentions written as the formulas are: what the model and its kernel are compared with."""

import torch
import torch.nn.functional as F

from dedn_hf import DednModel
from dedn_hf.modeling_dedn import DednAttentionHead, DednOutput


def textbook_pooling(tokens: torch.Tensor, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[`attentive_pooling`] by its formula, for tokens `(B, N, E)` and rows `(A, E)`."""
    logits = torch.einsum("ae,bne->ban", weight, tokens)
    values = torch.einsum("ae,bne->ban", value, tokens)
    return (logits.softmax(dim=-1) * values).sum(dim=-1)


class TextbookDednModel(DednModel):
    """
    [`DednModel`] over feature maps with both attentions of each head written as the formulas are: an einsum for the
    values and one for the weights, batch × attributes × regions and batch × attributes × channels, and the softmax
    between. The losses are the same code. Gives `expert_scores`, and `loss` and `loss_parts` or `logits`.
    """

    def forward(self, feature_map: torch.Tensor, labels: torch.Tensor | None = None) -> DednOutput:
        features = feature_map.flatten(2)
        if self.config.normalize_features:
            features = F.normalize(features, dim=1)
        coarse, fine = (self._attribute_scores(expert, features) for expert in (self.coarse_expert, self.fine_expert))
        expert_scores = torch.stack([torch.stack(coarse), torch.stack(fine)]).permute(2, 0, 1, 3)
        class_rows = F.normalize(self.class_attributes, dim=-1)
        if labels is not None:
            loss, loss_parts = self._loss(coarse, fine, class_rows, self.seen_classes, labels)
            return DednOutput(loss=loss, loss_parts=loss_parts, expert_scores=expert_scores)

        c, e = self.config.region_mix, self.config.coarse_mix
        bias = self.config.gamma / 2
        class_bias = torch.where(self.seen_classes, -bias, bias)
        coarse, fine = (c * by_region + (1 - c) * by_channel for by_region, by_channel in (coarse, fine))
        logits = e * (coarse @ class_rows.T) + (1 - e) * (fine @ class_rows.T) + class_bias
        return DednOutput(logits=logits, expert_scores=expert_scores)

    def _attribute_scores(self, expert, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        by_region, by_channel = zip(*(self._attend(head, features) for head in expert.heads))
        return tuple(torch.cat(scores, dim=1)[:, expert.attribute_order] for scores in (by_region, by_channel))

    @staticmethod
    def _attend(head: DednAttentionHead, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = head.word_vectors
        if head.low_rank:
            low, out = head.region_value.weight, head.region_value_out.weight
            values = torch.einsum("nd,hd,ch,bcr->bnr", vectors, low, out, features)
        else:
            values = torch.einsum("nd,cd,bcr->bnr", vectors, head.region_value.weight, features)
        weights = torch.einsum("nd,cd,bcr->bnr", vectors, head.region_weight.weight, features).softmax(dim=-1)
        by_region = torch.einsum("bnr,bnr->bn", weights, values)
        values = torch.einsum("nd,rd,bcr->bnc", vectors, head.channel_value.weight, features)
        weights = torch.einsum("nd,rd,bcr->bnc", vectors, head.channel_weight.weight, features).softmax(dim=-1)
        return by_region, torch.einsum("bnc,bnc->bn", weights, values)
