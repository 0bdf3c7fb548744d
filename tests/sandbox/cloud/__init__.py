"""The simulated AWS account: moto 5.2.5 with the corrections and additions that this package installs into it.

Nothing is imported here, so that a part (the lock, say) costs no more than itself.
"""
