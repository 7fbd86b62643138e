"""The message forest: conversations found again in a pile of completions.

Key of a node = sha256(parent's key, canonical message); key of a root = sha256(tools). So every
node has one parent, equal keys mean equal history, and a prefix that many completions share is
stored once, across episodes too. A client that runs two agents in one episode, or changes its
system prompt half way, leaves several leaves: one conversation each.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.types import Completion, Message, Tool, canonical_json


@dataclass(slots=True)
class Node:
    """One message in its history. A root has no message; its `tools` hold for the whole tree."""

    key: str
    parent: "Node | None"
    message: Message | None
    tools: tuple[Tool, ...]
    depth: int  # messages from the root, the root's being 0
    children: list["Node"] = field(default_factory=list)
    asked: list[Completion] = field(default_factory=list)  # whose request ends here
    answered: list[Completion] = field(default_factory=list)  # whose reply this message is


@dataclass(frozen=True, slots=True)
class Conversation:
    """The path from a root to a leaf, with the completions made along it in their order."""

    key: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    completions: tuple[Completion, ...]

    @property
    def system(self) -> Message | None:
        """The system or developer message that it starts with, if any."""
        first = self.messages[0] if self.messages else None
        return first if first and first["role"] in ("system", "developer") else None


class MessageForest:
    """Messages of many completions, equal histories merged. Adding one twice changes nothing."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._roots: list[Node] = []
        self._seen: set[str] = set()
        self.messages_added = 0  # with repetitions; compare with len(self)

    @classmethod
    def of(cls, completions: Iterable[Completion]) -> "MessageForest":
        forest = cls()
        for completion in completions:
            forest.add(completion)
        return forest

    def __len__(self) -> int:
        """Messages stored: each history once, roots not counted."""
        return len(self._nodes) - len(self._roots)

    def __contains__(self, key: str) -> bool:
        return key in self._nodes

    def __getitem__(self, key: str) -> Node:
        return self._nodes[key]

    @property
    def roots(self) -> tuple[Node, ...]:
        return tuple(self._roots)

    def add(self, completion: Completion) -> Node:
        """The node of the completion's reply, or of its last request message without one."""
        request = completion.request
        new = completion.id not in self._seen
        self._seen.add(completion.id)
        node = self._root(request.tools)
        for message in request.messages:
            node = self._child(node, message)
        if new:
            self.messages_added += len(request.messages)
            node.asked.append(completion)
        if completion.message is not None:
            node = self._child(node, completion.message)
            if new:
                self.messages_added += 1
                node.answered.append(completion)
        return node

    def leaves(self) -> list[Node]:
        """Nodes that nothing follows, in the order in which they were added."""
        return [n for n in self._nodes.values() if not n.children and n.parent is not None]

    def conversations(self) -> list[Conversation]:
        """One per leaf. A completion on a shared prefix belongs to every conversation through it;
        a request that was never answered belongs to those that go on from it, or ends its own."""
        return [self._conversation(leaf) for leaf in self.leaves()]

    def _conversation(self, leaf: Node) -> Conversation:
        path = list(reversed(list(_ancestors(leaf))))
        completions = [c for node in path for c in node.answered]
        if not leaf.answered:
            completions += [c for c in leaf.asked if c.message is None]
        messages = tuple(n.message for n in path if n.message is not None)
        return Conversation(leaf.key, messages, leaf.tools, tuple(completions))

    def _root(self, tools: Sequence[Tool]) -> Node:
        key = root_key(tools)
        if key not in self._nodes:
            self._nodes[key] = Node(key, None, None, tuple(tools), 0)
            self._roots.append(self._nodes[key])
        return self._nodes[key]

    def _child(self, parent: Node, message: Message) -> Node:
        key = message_key(parent.key, message)
        if key not in self._nodes:
            node = Node(key, parent, message, parent.tools, parent.depth + 1)
            self._nodes[key] = node
            parent.children.append(node)
        return self._nodes[key]


def conversations(completions: Iterable[Completion]) -> list[Conversation]:
    """The conversations of an episode's (or a whole store's) completions, interleaved or not."""
    return MessageForest.of(completions).conversations()


def final_conversations(completions: Iterable[Completion]) -> list[Conversation]:
    """What each agent of an episode said, once, as it ended; agents in the order of their ends.

    Left out are replies that were cut, a conversation that goes on in a later one (under another
    system prompt, where that changes on the way), and one from the same opening as a later one
    (the reply was generated again).
    """
    done = [c for c in completions if c.message is not None and c.status == "ok"]
    order = {c.id: n for n, c in enumerate(done)}
    found = conversations(done)
    found.sort(key=lambda f: max(order[c.id] for c in f.completions), reverse=True)
    kept: list[tuple[Conversation, list[str], list[str]]] = []
    for one in found:
        prompt, said = _prompt_and_said(one.messages)
        if not any(
            (len(said) < len(later) and later[: len(said)] == said)
            or (prompt == other and later[:1] == said[:1])
            for _, other, later in kept
        ):
            kept.append((one, prompt, said))
    return [one for one, _, _ in reversed(kept)]


def _prompt_and_said(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """System messages, and the others, each as text to compare."""
    prompt: list[str] = []
    said: list[str] = []
    for message in messages:
        system = message["role"] in ("system", "developer")
        (prompt if system else said).append(canonical_json(canonical_message(message)))
    return prompt, said


def history_key(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """The key of the node that these messages lead to."""
    key = root_key(tools)
    for message in messages:
        key = message_key(key, message)
    return key


def root_key(tools: Sequence[Tool]) -> str:
    return hashlib.sha256(b"tools\0" + _utf8(canonical_json(list(tools)))).hexdigest()


def message_key(parent_key: str, message: Message) -> str:
    text = canonical_json(canonical_message(message))
    return hashlib.sha256(_utf8(f"{parent_key}\0{text}")).hexdigest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may hold halves of surrogate pairs


def canonical_message(message: Message) -> dict[str, Any]:
    """The message without what says nothing: nulls, an empty list of calls, an assistant's empty
    content beside calls; a lone text part becomes its text. Everything else counts as history."""
    canonical: dict[str, Any] = {k: v for k, v in message.items() if v is not None}
    content = canonical.get("content")
    if isinstance(content, list) and len(content) == 1 and set(content[0]) == {"type", "text"}:
        canonical["content"] = content[0]["text"]
    if not canonical.get("tool_calls"):
        canonical.pop("tool_calls", None)
    elif canonical.get("content") == "":
        canonical.pop("content")
    return canonical


def _ancestors(node: Node) -> Iterator[Node]:
    """The node and everything above it."""
    here: Node | None = node
    while here is not None:
        yield here
        here = here.parent
