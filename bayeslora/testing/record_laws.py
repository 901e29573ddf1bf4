"""Laws of what is saved of a last layer, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bayeslora import options
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import POSTERIORS, check_posterior
from bayeslora.posteriors.types import LastLayer
from bayeslora.testing.case import LastLayerCase


class RecordLaws(LastLayerCase):
    """Options are JSON, state is tensors, and together they are the whole posterior."""

    def test_the_options_can_be_listed_named_and_stored(self) -> None:
        """The class has its class variables, and options survive JSON."""
        config = type(self.config)
        if POSTERIORS.get(config.name) is not config:
            check_posterior(config, "the posterior")
        stored = json.loads(json.dumps(options.as_mapping(self.config), allow_nan=False))
        assert options.resolve("posterior", stored, {config.name: config}) == self.config

    def test_what_a_fit_says_is_json(self, head: LastLayer) -> None:
        """`extra_config` and `report` go into `bayeslora.json`."""
        for said in (head.extra_config(), head.report()):
            assert json.loads(json.dumps(said, allow_nan=False)) == said

    @pytest.mark.parametrize("count", [60, 3])
    def test_saved_and_loaded_is_bit_equal(
        self, rows: Features, tmp_path: Path, count: int
    ) -> None:
        """From tensors and `extra_config` alone, also for fewer rows than features."""
        head = self.fitted(count)
        file = tmp_path / "posterior.safetensors"
        save_file({name: item.contiguous() for name, item in head.state_dict().items()}, file)
        loaded = self.build(extra=head.extra_config())
        loaded.load_state_dict(load_file(file))
        expected, found = head.predict(rows), loaded.predict(rows)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.covariance, expected.covariance)
        assert torch.equal(loaded.mean_weight, head.mean_weight)
        assert loaded.extra_config() == head.extra_config()
        assert loaded.report() == head.report()

    def test_an_unfitted_state_loads_too(self) -> None:
        """Checkpoints of a training hold one."""
        loaded = self.build()
        loaded.load_state_dict(self.make().state_dict())

    def test_the_mean_is_where_it_was_set(self) -> None:
        """Another posterior starts from it, `calibrate` too."""
        head = self.make()
        assert head.mean_weight.shape == (self.num_classes, self.num_features)
        torch.testing.assert_close(head.mean_weight.float(), self.start(), atol=0, rtol=0)

    def test_told_mean_square_norm_is_saved(self) -> None:
        """It turns prior scales into precisions, so it belongs to the state: a scalar tensor."""
        head = self.make()
        head.set_mean_sq_norm(7.0)
        assert 7.0 in [float(item) for item in head.state_dict().values() if item.ndim == 0]
