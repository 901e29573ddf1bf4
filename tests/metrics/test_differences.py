"""Which of two methods is farther from zero, by the textbook."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from bayeslora.metrics.differences import farther_from_zero_p


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("other_sign", [1, -1])
def test_what_is_farther_from_zero_is_so_whatever_its_sign(sign, other_sign):
    generator = np.random.default_rng(0)
    near, far = generator.normal([[0.1], [0.4]], 1, (2, 400))
    p = farther_from_zero_p(sign * near, other_sign * far)
    assert p < 0.05
    assert p == farther_from_zero_p(-sign * near, -other_sign * far)
    # Both factors of b² − a², each by the textbook test.
    tests = [ttest_rel(other_sign * far, way * sign * near).pvalue for way in (1, -1)]
    assert p == pytest.approx(max(tests))
    assert farther_from_zero_p(other_sign * far, sign * near) == 1
