"""The other tool: Hugging Face's GPT-2 on torch, with the same loss written by hand."""

import math

import torch
from transformers import GPT2Config, GPT2Model


class TorchContrastive(torch.nn.Module):
    """GPT-2 with random weights, the state at the last token, and a symmetric cross-entropy.

    Args:
        model: The sizes, under the names of `keras_hub.models.GPT2Backbone`.
        optimizer: `learning_rate`, `weight_decay` and `epsilon` of AdamW.
    """

    def __init__(self, model, optimizer):
        super().__init__()
        config = GPT2Config(
            vocab_size=model["vocabulary_size"],
            n_positions=model["max_sequence_length"],
            n_layer=model["num_layers"],
            n_head=model["num_heads"],
            n_embd=model["hidden_dim"],
            n_inner=model["intermediate_dim"],
            resid_pdrop=model["dropout"],
            embd_pdrop=model["dropout"],
            attn_pdrop=model["dropout"],
            bos_token_id=0,
            eos_token_id=0,
        )
        self.backbone = GPT2Model(config)
        self.tau = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.to("cuda" if torch.cuda.is_available() else "cpu")
        self.optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=optimizer["learning_rate"],
            weight_decay=optimizer["weight_decay"],
            eps=optimizer["epsilon"],
        )

    @property
    def parameter_count(self):
        """The number of trained scalars."""
        return sum(p.numel() for p in self.parameters())

    def _embed(self, tokens):
        ids, mask = (
            torch.as_tensor(tokens[name], device=self.tau.device)
            for name in ("token_ids", "padding_mask")
        )
        states = self.backbone(
            ids.long(), attention_mask=mask.long(), use_cache=False
        ).last_hidden_state
        rows = states[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1]
        return torch.nn.functional.normalize(rows, dim=1)

    def step(self, batch):
        """One training step on a batch; returns its loss, when all is computed."""
        query, document = (self._embed(batch[side]) for side in ("query", "document"))
        logits = query @ document.T * self.tau.exp()
        labels = torch.arange(len(logits), device=logits.device)
        cross_entropy = torch.nn.functional.cross_entropy
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
