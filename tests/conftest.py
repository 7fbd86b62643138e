"""Settings of the whole suite."""

from hypothesis import HealthCheck, settings

# a machine whose cores are busy must not make a property test fail
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
