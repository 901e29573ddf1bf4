"""Time estimates of long work, and the family that `auto` chooses."""

from bayeslora import VBLL


def test_small_problems_stay_dense_and_400_classes_do_not():
    for sizes in ((2, 576, 640), (8, 576, 640), (20, 384, 1000), (77, 384, 1000)):
        assert VBLL().sized(*sizes).covariance == "dense"
    assert VBLL().sized(77, 576, 640).covariance == "dense"
    assert VBLL().sized(400, 384, 2000).covariance == "eigenbasis"
    # Few rows make a dense fit cheap, but not small.
    assert VBLL().sized(400, 576, 300).covariance == "eigenbasis"
    for family in ("dense", "eigenbasis"):
        assert VBLL(covariance=family).sized(400, 384, 2000).covariance == family
