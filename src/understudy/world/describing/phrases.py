"""Tests of a situation in words: what a call, or what it names, is like."""

from collections.abc import Sequence
from typing import Any

from understudy.world.data.values import unescape
from understudy.world.describing.facts import Case
from understudy.world.known.sources import forms_text, quoted, unnamed, value_text
from understudy.world.outcomes.features import Feature
from understudy.world.outcomes.templates import PROSE, Template
from understudy.world.tools import ToolModel

_SIGNS = {"<": "below", ">": "above", "=": "equal to"}
_KNOWN = {
    "session": ("an earlier result shows the record of the {} given",
                "no earlier result shows the record of the {} given"),
    "shown": ("an earlier result names the {} given, and none shows its record",
              "an earlier result shows the record of the {} given, or none names it"),
    "memory": ("no earlier result of the conversation names the {} given, but another one did",
               "the {} given is in an earlier result of the conversation, or in none at all"),
    "new": ("the {} given is in no result, of this conversation or another",
            "the {} given is in a result, of this conversation or another"),
}  # fmt: skip
_NEAR = (
    "the {} given is in no result, and differs in one character from one that is",
    "the {} given is in a result, or unlike all that are",
)


def wording(template: Template) -> str:
    """A failure's text, with <argument> where it repeats one and ... where it varies."""
    slots = []
    for sources, samples in zip(template.slots, template.samples, strict=True):
        names = [_named(source) for source, share in sources if share > 0.9]
        always = samples[0] if len(samples) == 1 and template.count > 1 else None
        slots.append(next((n for n in names if n), always or "..."))
    return template.form.format(*slots)


def _named(source: tuple[Any, ...]) -> str | None:
    if source[0] == "arg":
        return f"<{unescape(source[1].rpartition('/')[2])}>"
    return {"missing": "<argument>", "extra": "<argument>"}.get(source[0])


def outcome_text(model: ToolModel, label: str) -> str:
    """An outcome class in words."""
    kind, _, what = label.partition(":")
    template = model.texts.get(label)
    text = wording(template) if template is not None else what.replace("{{", "{").replace("}}", "}")
    if kind == "err":
        return "fails in words that came once" if label in PROSE else f"fails: {text}"
    if what.startswith("{"):
        names = what[1:-1].replace(",", ", ")
        return f"goes well: gives {names}" if names else "goes well: gives nothing"
    if what.startswith("text:"):
        return f"goes well: {text.removeprefix('text:')}"
    return f"goes well: gives {_article('text' if label in PROSE else what)}"


def condition_text(case: Case, condition: str) -> str | None:
    """What is wrong with a call in itself; None for what only names of a kind have."""
    sign, _, what = condition.partition(":")
    what, _, kind = what.partition(":")
    domains = case.world.ids.args.get(case.tool, {})
    names = [p for p, domain in domains.items() if domain == what] or [what]
    p = quoted(names)
    texts = {
        "extra": "an argument is given that it does not know",
        "missing": "a required argument is missing",
        "kind": f"{p} is {_article(kind)} (JSON type)",
        "value": f"{p} is none of the values that are known to work",
        "empty": f"{p} is empty",
        "new": _KNOWN["new"][0].format(p),
        "near": _NEAR[0].format(p),
        "foreign": f"{p} does not belong to what the other arguments name",
    }
    if sign == "form":
        forms = case.model.facts.patterns.get(names[0], [])
        return f"{p} is not of the form {forms_text(forms)}" if forms else None
    if sign == "kind" and what not in case.model.facts.known and what not in domains.values():
        return None
    return texts.get(sign)


def phrase(case: Case, feature: Feature, value: Any, holds: bool) -> str:
    """A test of a tree of outcomes: that a feature has a value, or is at most ["<=", bound]; or,
    where `holds` is false, that it does not."""
    head, *rest = feature
    if isinstance(value, list):
        over = "more than" if head in ("n", "since") else "above"
        return unnamed(_bound(head, rest, f"{'at most' if holds else over} {value[1]}"))
    yes, no = _unknown(head, rest) if value is None else _both(case, head, rest, value)
    return unnamed(yes if holds else no)


def _bound(head: str, rest: Sequence[Any], bound: str) -> str:
    if head == "n":
        return f"{bound} calls came before in the conversation"
    if head == "since":
        return f"`{rest[0]}` was first named {bound} calls before"
    if head in ("amount", "size"):
        return f"{_number(head, rest[1])} of the record that `{rest[0]}` names is {bound}"
    return f"`{rest[0]}` is {bound}"


def _number(head: str, name: str) -> str:
    return f"the number of items in `{name}`" if head == "size" else f"`{name}`"


def _is(what: str, value: str) -> tuple[str, str]:
    return f"{what} is {value}", f"{what} is not {value}"


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def _both(case: Case, head: str, rest: Sequence[Any], value: Any) -> tuple[str, str]:
    """That a feature has a value, and that it does not."""
    p = f"`{rest[0]}`" if rest else ""
    if isinstance(value, bool):
        yes, no = _yes_no(case, head, rest)
        return (yes, no) if value else (no, yes)
    of = f" of the record that {p} names"
    if head in ("val", "num"):
        return _is(p, value_text(value))
    if head == "kind":
        return _is(p, f"{_article(value)} (JSON type)")
    if head == "field":
        return _is(f"`{rest[1]}`{of}", value_text(value))
    if head in ("amount", "size"):
        return _is(f"{_number(head, rest[1])}{of}", value_text(value))
    if head == "pair":
        one, other = _number(rest[1], rest[2]), _number(rest[3], rest[4])
        yes, no = _is(one, f"{_SIGNS[value]} {other}")
        return f"{yes}, both{of}", f"{no}, both{of}"
    if head == "cmp":
        return _is(f"`{rest[1]}`", f"{_SIGNS[value]} `{rest[2]}`{of}")
    if head == "known":
        yes, no = _KNOWN[value]
        return yes.format(p), no.format(p)
    if head == "by":
        text = f"the last call for the {p} given that went well was of `{value}`"
        return text, text.replace(" was of ", " was not of ")
    if head == "rep":
        return _went(case, "the same call", value, "before")
    if head in ("ownfail", "idfail"):
        who = "this tool" if head == "ownfail" else "another tool"
        return _went(case, who, value, f"for the {p} given")
    return _is(f"{head} {p}".strip(), value_text(value))


def _went(case: Case, who: str, label: str, where: str) -> tuple[str, str]:
    """That a call came to an outcome class, of this tool or of another one."""
    if label.startswith("ok"):
        return f"{who} went well {where}", f"{who} did not go well {where}"
    template = case.model.texts.get(label)
    words = f" with `{wording(template)}`" if template is not None else ""
    return f"{who} failed {where}{words}", f"{who} did not fail {where}{words}"


def _yes_no(case: Case, head: str, rest: Sequence[Any]) -> tuple[str, str]:
    """A feature that is true, and one that is false."""
    p = f"`{rest[0]}`" if rest else ""
    other = f"`{rest[-1]}`" if rest else ""
    forms = forms_text(case.model.facts.patterns.get(rest[0], [])) if rest else ""
    return {
        "has": _is(p, "given"),
        "cmp": _is(f"`{rest[1]}`", f"equal to {other} of the record that {p} names")
        if len(rest) > 2 else ("", ""),
        "val": _is(p, "true"),
        "field": _is(f"{other} of the record that {p} names", "true"),
        "fmt": _is(p, f"of the form {forms}"),
        "hits": ("something matches", "nothing matches"),
        "unseen": ("a value asked for is not known", "all values asked for are known"),
        "clash": ("something that is there is in the way", "nothing is in the way"),
        "miss": ("a required argument is missing", "no argument is missing"),
        "extra": ("an unknown argument is given", "all arguments are known"),
        "done": (f"{p} went well before", f"{p} did not go well before"),
        "near": (_NEAR[0].format(p), _NEAR[1].format(p)),
        "prev": (f"{other} has gone well with this {p} before",
                 f"{other} has not gone well with this {p} before"),
        "with": (f"one result showed {p} and {other}", f"no result showed both {p} and {other}"),
        "in": _is(other, f"part of the record that {p} names"),
        "holds": _is(other, f"in the record that {p} names"),
    }.get(head, _is(f"{head} {p}".strip(), "true"))  # fmt: skip


def _unknown(head: str, rest: Sequence[Any]) -> tuple[str, str]:
    """A feature that has no value, and one that has any."""
    p = f"`{rest[0]}`" if rest else ""
    if head in ("field", "amount", "size"):
        return _known_or_not(f"`{rest[1]}` of the record that {p} names")
    if head == "cmp":
        return _known_or_not(f"`{rest[2]}` of the record that {p} names")
    if head == "pair":
        return _known_or_not(f"`{rest[2]}` or `{rest[4]}` of the record that {p} names")
    if head == "holds":
        return _known_or_not(f"the record that {p} names")
    never = f"for the {p} given"
    return {
        "hits": _known_or_not("what matches"),
        "unseen": _known_or_not("what the values asked for select"),
        "clash": ("nothing can be in the way", "something may be in the way"),
        "rep": ("the same call was not made before", "the same call was made before"),
        "by": (f"no call went well before {never}", f"a call went well before {never}"),
        "ownfail": (f"this tool has not failed {never}", f"this tool has failed {never}"),
        "idfail": (f"no other tool has failed {never}", f"another tool has failed {never}"),
        "since": (f"{p} was not named before", f"{p} was named before"),
        "with": (f"no result showed the {p} given", f"a result showed the {p} given"),
        "fmt": (f"{p} is no text", f"{p} is a text"),
        "num": (f"{p} is no number", f"{p} is a number"),
    }.get(head, (f"{p} is not given", f"{p} is given"))


def _known_or_not(what: str) -> tuple[str, str]:
    return f"{what} is not known", f"{what} is known"
