import torch
from acme_methods.fixed_first import FixedFirst
from torch import nn

from bayeslora.adapters.inject import inject
from bayeslora.testing.adapter import SiteLaws


class TestLaws(SiteLaws):
    config = FixedFirst(r=2, target_modules=("layers.0", "layers.2"))


def test_the_layer_adds_the_scaled_product_and_trains_the_second_factor():
    model = nn.Sequential(nn.Linear(4, 3))
    (site,) = inject(model, FixedFirst(r=2, alpha=4.0, target_modules=("0",)), seed=0)
    assert list(site.trainable()) == ["B"]
    torch.testing.assert_close(site.A @ site.A.T, torch.eye(2))
    nn.init.normal_(site.B.weight)
    changed = site.weight + 2.0 * site.B.weight @ site.A
    x = torch.eye(4)
    torch.testing.assert_close(model(x), x @ changed.T + site.bias)
    torch.testing.assert_close(site.merged().weight, changed)
