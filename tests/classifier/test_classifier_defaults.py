"""What `fit` chooses where it is told nothing."""

import pytest
from usage import new, toy_rows

from bayeslora.adapters.config import LoRA, PoLAR


@pytest.mark.parametrize(
    ("options", "validates", "epochs", "rate"),
    [
        ({}, False, 5, PoLAR.default_lr),
        ({}, True, 15, PoLAR.long_lr),
        ({"adapter": "lora"}, True, 15, LoRA.long_lr),
        ({"adapter": "polar:lr=0.02"}, True, 15, 0.02),
        ({"posterior": "swag"}, True, 5, PoLAR.default_lr),
    ],
)
def test_epochs_and_rate_follow_what_validation_rows_choose(
    llama, options, validates, epochs, rate
):
    rows = toy_rows(16)
    clf = new(llama, **options).fit(rows, rows if validates else None, batch_size=4, patience=1)
    assert clf.record.training["epochs"] == epochs
    assert clf.record.adapter["lr"] == rate


def test_few_epochs_keep_the_lower_rate(llama):
    rows = toy_rows(8)
    clf = new(llama).fit(rows, rows, epochs=2, batch_size=8)
    assert clf.record.adapter["lr"] == PoLAR.default_lr
