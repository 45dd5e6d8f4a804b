"""What is raised when a set of policies cannot be used."""

from gateway.strict_toml import TomlRefused


class PolicySetRefused(TomlRefused):
    """What `policies/` declares cannot be used; the message says what and why."""
