"""The report of AMT on unseen digits: a table of the arms, and the claims of the paper."""

KEY = ("arm", "seed")


def write_summary(reports):
    pass
