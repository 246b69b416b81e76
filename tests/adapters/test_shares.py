"""Shares are written in one way, however they are typed; and lead to what is in them only."""

import pytest

from adapters.errors import Refused
from adapters.shares import share_of, within


@pytest.mark.parametrize(
    ("typed", "share"),
    [
        (r"\\nas\images", r"\\nas\images"),
        ("//nas/images/", r"\\nas\images"),
        ("smb://nas.example.org/images/one two", r"\\nas.example.org\images\one two"),
        ("//10.0.0.7/images$/main", r"\\10.0.0.7\images$\main"),
    ],
)
def test_a_share_is_written_as_windows_does(typed, share):
    assert share_of(typed) == share
    assert share_of(share) == share
    assert within(share, "templates/a/disk-0.vhdx") == rf"{share}\templates\a\disk-0.vhdx"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "/srv/images",
        "nas/images",
        "//nas",
        "//nas/a/../b",
        "http://nas/a",
        "//n/a?b",
        "//n/a\n",
    ],
)
def test_what_is_no_share_is_refused(typed):
    with pytest.raises(Refused) as refused:
        share_of(typed)
    assert refused.value.code == "no-share"
