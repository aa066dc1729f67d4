"""How many examples a generated test runs whose examples cost milliseconds each."""

from hypothesis import HealthCheck, settings

# Of the examples of ``make test``, how many times as many other profiles have.
_TIMES = {"thorough": 6, "search": 40}


def scaled(number: int) -> int:
    """Return ``number`` in ``make test``, and more in other profiles."""
    return number * _TIMES.get(settings.get_current_profile_name(), 1)


def examples(number: int) -> settings:
    """Return settings for ``number`` examples in ``make test``, and more in other profiles."""
    return settings(
        max_examples=scaled(number),
        deadline=None,  # the machine may be busy
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
