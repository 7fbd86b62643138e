"""Environments, users, and the agent loop that runs a policy in them."""

from understudy.envs.python_tools import PythonTools, PythonToolsSession
from understudy.envs.replay import Replay, ReplaySession
from understudy.envs.rollout import rollout
from understudy.envs.users import ScriptedUser

__all__ = [
    "PythonTools",
    "PythonToolsSession",
    "Replay",
    "ReplaySession",
    "ScriptedUser",
    "rollout",
]
