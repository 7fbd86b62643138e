# ruff: noqa: SIM905  (word lists read better as text)
"""Word pools, and the split of every pool into words of train and of heldout dialogues.

A word belongs to `heldout` by its hash alone, whatever pool it is in, so that no tool name, field
name or invented proper name occurs in both splits.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from random import Random

from .types import Split

HELDOUT_PERCENT = 16

NOUNS = """
    depot ledger ticket parcel berth plot slot license batch lesson crate pallet permit
    locker wagon tractor kiln loom boat kayak bike scooter van truck drone camera lens tent
    stall booth desk studio court field garage shed barn silo tank pump valve engine motor
    panel sensor router server cable domain voucher coupon policy claim invoice order
    shipment cargo container seat table class course tutor coach nurse clinic vaccine sample
    recipe meal basket crop seed vine tree garden meadow quarry mine ingot alloy gear bolt
    spring plank beam brick tile carpet curtain lamp chair sofa mirror violin piano drum
    flute record film print poster map atlas globe stamp coin medal ring watch clock coat
    boot glove scarf helmet saddle horse pony hive pond dock pier ferry barge raft sail
    anchor buoy lane ramp crane lift forklift press lathe drill saw laser printer scanner
    tablet phone badge key pass plan shift crew team task job case bug issue patch release
    build model dataset cluster node disk queue topic channel stream feed event session
    match race tour hike route shuttle taxi loan bond share fund account card wallet
    contract lease deed title auction lot bid offer quote sale grant award survey form poll
    exam quiz paper journal volume shelf visit repair delivery haircut workshop mentor spot
    bay trip ride cabin charter bundle package kit device unit asset
""".split()

VERBS = {
    "search": """search find list query browse lookup scan fetch explore discover show pull match
        collect survey seek gather filter""".split(),
    "details": """get read inspect describe view examine peek detail check review study
        explain""".split(),
    "act": """reserve hold claim assign open lock request allocate secure draft take block prepare
        pick choose earmark begin start order select bag""".split(),
    "confirm": """confirm pay submit settle finalize complete approve commit charge checkout seal
        execute activate conclude finish sign clear""".split(),
    "cancel": """cancel release revoke drop void undo withdraw remove delete abort annul
        scrap""".split(),
    "lookup": """find fetch load locate trace retrieve recall get pull read resolve""".split(),
    "update": """update change modify edit amend adjust set revise alter patch""".split(),
    "create": """create add make register post log send file save enter record put issue
        insert""".split(),
    "escalate": """escalate notify alert report flag raise page ping warn call tell""".split(),
}

PRICE = "price cost fee rate charge amount tariff total rent toll premium expense value".split()
GOOD = "rating score grade quality stars points merit review rank trust".split()
NUMERIC = """
    weight length distance size age capacity height speed level width load depth range power
    stock delay duration mileage wear battery volume pressure output reach
""".split()
ATTRIBUTES = {
    "color": "red blue green black white yellow grey orange purple brown".split(),
    "material": "oak steel glass wool cotton clay brass pine linen rubber".split(),
    "type": "basic plus pro lite mini standard family express classic sport".split(),
    "kind": "open closed mixed small large round flat long single double".split(),
    "state": "ready used new clean damp repaired packed sealed worn idle".split(),
    "brand": "Arvo Belt Cetra Dunn Elko Fabra Gorm Hask Ilva Jott".split(),
    "side": "north south east west upper lower inner outer front back".split(),
    "season": "spring summer autumn winter dry wet early late".split(),
    "tier": "gold silver bronze copper iron basic prime".split(),
    "mode": "manual auto remote shared fast slow quiet eco".split(),
    "topic": "math music art law sport history chess cooking".split(),
    "style": "plain modern rustic antique formal casual".split(),
}
FLAGS = """
    damaged blocked shared remote private smoking noisy restricted trial refurbished locked
    archived disputed sponsored fragile outdoor
""".split()
PLACE = """
    town zone area site region district city harbor location sector place port valley campus
    quarter parish county hub
""".split()
SIZE = (
    "people persons seats quantity count units qty crew members pieces places heads copies".split()
)
SIZE_TEXT = {
    "qty": "pieces",
    "quantity": "pieces",
    "count": "pieces",
    "crew": "crew",
    "heads": "heads",
}
SPAN = "days hours weeks months rounds sessions terms laps shifts minutes evenings cycles".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
PERSON = """
    name customer owner client holder contact applicant member user recipient buyer tenant
    person pilot rider
""".split()
METHOD = "method payment pay_with account source channel wallet via tender means".split()
METHODS = """
    card coupon wallet invoice credit transfer cash points debit bank token check cheque
""".split()
CAP = "max_{f} {f}_max cap limit budget up_to ceiling max {f}_limit upper".split()
SORT = "sort sort_by order order_by rank_by sorting by".split()
ID = "id code ref key number uid no tag handle".split()
LIST = "items results data matches list found entries rows hits records".split()
HOLD = "reservation draft request claim lock session case slip order".split()
FINAL = "confirmation receipt reference ticket voucher proof contract entry code".split()
OFFICE = "supervisor office manager support operator team lead helpdesk".split()
NOTE = "note comment remark memo label reason text subject message".split()
OPTION = {
    "currency": "KR ZL MK DN TAL".split(),
    "channel": "web phone desk app".split(),
    "lang": "en fr de es".split(),
    "priority": "low normal high urgent".split(),
    "source": "agent partner direct".split(),
    "team": "alpha beta gamma delta".split(),
    "format": "short full brief".split(),
    "plan": "basic flex prime".split(),
    "unit": "kg lb m ft".split(),
    "region": "north south east west".split(),
}

# Very common words stay in train, so that what users of the model are likely to need is seen.
ALWAYS_TRAIN = frozenset(
    """search find get list reserve hold confirm pay cancel update create escalate price rating
    score id code name town city method sort order limit people items results""".split()
)

_ONSET = "b d f g h k l m n p r s t v z br dr gr kr tr sk st th".split()
_VOWEL = "a e i o u ai ea ou".split()
_CODA = ["", "", "", "l", "n", "r", "s", "m", "rk", "nd", "lt", "x"]


@lru_cache(maxsize=200_000)
def split_of(word: str) -> Split:
    """The split a word belongs to, by hash."""
    if word in ALWAYS_TRAIN:
        return "train"
    digest = hashlib.blake2b(word.lower().encode(), digest_size=4).digest()
    return "heldout" if int.from_bytes(digest, "big") % 100 < HELDOUT_PERCENT else "train"


@lru_cache(maxsize=512)
def _pool(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return tuple(word for word in words if split_of(word) == split)


def pool(words: list[str], split: Split) -> tuple[str, ...]:
    """The words of a pool that belong to the split (`new`: heldout nouns, words of any split)."""
    if split == "new":
        return _pool(tuple(words), "heldout") if words is NOUNS else tuple(words)
    return _pool(tuple(words), split)


def word(rng: Random, words: list[str], split: Split) -> str:
    """One word of a pool, of the split (an invented word if the pool holds none)."""
    choices = pool(words, split)
    return rng.choice(choices) if choices else invented(rng, split, 2).lower()


def invented(rng: Random, split: Split, syllables: int) -> str:
    """A pronounceable capitalised word that belongs to the split."""
    while True:
        text = "".join(
            rng.choice(_ONSET)
            + rng.choice(_VOWEL)
            + (rng.choice(_CODA) if i + 1 == syllables else "")
            for i in range(syllables)
        ).capitalize()
        wanted = "heldout" if split == "new" else split
        if split_of(text) == wanted and text.lower() not in FORBIDDEN_NAMES:
            return text


FORBIDDEN_NAMES = frozenset(
    """paris rome oslo lima bern bonn kiel lyon nice turin milan london berlin madrid porto faro
    split riga bari pisa siena tunis cairo dubai doha delhi agra seoul kobe tokyo reno tampa dallas
    malaga geneva zurich vienna graz linz basel ghent krakow prague brno sofia varna malmo
    hotel guest stay night""".split()
)


def noun(rng: Random, split: Split) -> str:
    """What an API is about: a common word, or an invented one."""
    if rng.random() < 0.2:
        return invented(rng, split, rng.choice((1, 2))).lower()
    return word(rng, NOUNS, split)


def place_name(rng: Random, split: Split) -> str:
    name = invented(rng, split, rng.choice((2, 2, 2, 3)))
    if rng.random() < 0.12:
        name = f"{rng.choice(('New', 'Port', 'Old', 'Upper', 'East'))} {name}"
    return name


def person_name(rng: Random, split: Split) -> str:
    first = invented(rng, split, rng.choice((1, 2, 2)))
    if rng.random() < 0.4:
        return first
    return f"{first} {invented(rng, split, 2)}"


def plural(text: str) -> str:
    if text.endswith("y") and text[-2] not in "aeiou":
        return text[:-1] + "ies"
    return text + ("es" if text.endswith(("s", "x", "ch", "sh")) else "s")


def article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


_ALNUM = "abcdefghjkmnpqrstuvwxyz23456789"
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class IdStyle:
    """One way of writing identifiers; `new` never returns the same one twice."""

    def __init__(self, rng: Random, short: bool = False) -> None:
        self.rng = rng
        self.seen: set[str | int] = set()
        styles = ["letter", "letters", "bare"] if short else list(_STYLE_WEIGHTS)
        weights = [1.0] * 3 if short else list(_STYLE_WEIGHTS.values())
        self.style = rng.choices(styles, weights)[0]
        self.prefix = "".join(rng.choice(_UPPER) for _ in range(rng.choice((1, 1, 2, 3))))
        self.low = "".join(rng.choice("abcdefghklmnprstvwz") for _ in range(rng.choice((2, 3))))
        self.digits = rng.choice((1, 2, 2)) if short else rng.choice((2, 3, 3, 4, 4, 5))

    @property
    def json_type(self) -> str:
        return "integer" if self.style == "integer" else "string"

    def _number(self) -> str:
        low = 10 ** (self.digits - 1)
        return str(self.rng.randrange(low, 10 * low))

    def _draw(self) -> str | int:
        rng, style = self.rng, self.style
        if style == "dash":
            return f"{self.prefix}-{self._number()}"
        if style == "letter":
            return f"{rng.choice(_UPPER)}{self._number()}"
        if style == "letters":
            return "".join(rng.choice(_UPPER) for _ in range(rng.choice((1, 2, 2, 3))))
        if style == "bare":
            return f"{rng.choice(_ALNUM[:23])}{rng.choice('23456789')}"
        if style == "alnum":
            return "".join(rng.choice(_ALNUM) for _ in range(self.digits + 1))
        if style == "prefix":
            return f"{self.low}_{self._number()}"
        if style == "integer":
            return int(self._number() + str(rng.randrange(10)))
        if style == "hex":
            half = "".join(rng.choice("0123456789abcdef") for _ in range(4))
            return f"{half}-{rng.randrange(16**4):04x}"
        return f"{self.prefix}{self._number()}{rng.choice(_UPPER)}"

    def new(self) -> str | int:
        for _ in range(200):
            value = self._draw()
            if value not in self.seen:
                self.seen.add(value)
                return value
        self.digits += 1
        return self.new()


_STYLE_WEIGHTS = {
    "dash": 4.0,
    "letter": 2.0,
    "letters": 0.7,
    "bare": 0.7,
    "alnum": 2.0,
    "prefix": 2.0,
    "integer": 2.0,
    "hex": 0.8,
    "mixed": 1.0,
}


def option_value(rng: Random, option: str) -> str:
    """A value for an option parameter (whatever its casing)."""
    return rng.choice(OPTION.get(option, ["on", "std", "x1", "full"]))
