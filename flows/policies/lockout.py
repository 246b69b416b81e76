"""Lock-out: how long nobody may try a user's password, after so many that were wrong."""

_FREE = 5  # people mistype
_FIRST_S = 15.0
_LONGEST_S = 900.0  # whoever guesses must not keep the user himself out for ever


def pause_s(failures: int) -> float:
    """None after the first few; then twice as long each time, up to a quarter of an hour."""
    if failures < _FREE:
        return 0.0
    return min(_LONGEST_S, _FIRST_S * 2.0 ** min(failures - _FREE, 10))
