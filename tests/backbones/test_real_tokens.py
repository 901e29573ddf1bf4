"""Selection of real tokens by the mask, for every shape of a batch inside a model."""

import torch

from bayeslora.backbones.tokens import real_tokens

MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])


def test_the_mask_takes_the_shape_of_the_states():
    assert real_tokens("it", torch.zeros(2, 3, 4), MASK).tolist() == MASK.bool().tolist()
    assert real_tokens("it", torch.zeros(6, 4), MASK).tolist() == MASK.bool().flatten().tolist()
    assert real_tokens("it", torch.zeros(2, 4), MASK).tolist() == [True, True]
