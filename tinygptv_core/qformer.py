"""BLIP-2's Q-Former: a fixed number of learned queries that read the picture's tokens."""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

# Shape letters of this file: B batch, N tokens of the tower, D its width, Q queries, E width of the Q-Former.


class QFormer(nn.Module):
    """Learned queries and the BERT that lets them attend to the picture. Never trained after pre-training."""

    def __init__(self, config: Blip2QFormerConfig, num_queries: int) -> None:
        super().__init__()
        self.config, self.num_queries = config, num_queries
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, config.hidden_size))
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        self.qformer = Blip2QFormerModel(config)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "QFormer":
        """Stays in eval mode whatever the model around it does, so that its dropout never acts."""
        return super().train(False)

    def forward(self, vision_BND: Tensor) -> Tensor:
        """What the queries found in each picture.

        Args:
            vision_BND: the tower's tokens; D is the config's `encoder_hidden_size`.

        Returns:
            queries_BQE.
        """
        query_BQE = self.query_tokens.expand(len(vision_BND), -1, -1)
        return torch.as_tensor(self.qformer(query_embeds=query_BQE, encoder_hidden_states=vision_BND).last_hidden_state)
