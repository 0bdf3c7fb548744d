"""The plugin, as the agent's tests build it."""

from tests.netns.agent.conftest import plugin

__all__ = ["plugin"]
