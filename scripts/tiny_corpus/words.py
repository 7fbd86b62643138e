# ruff: noqa: SIM905  (word lists read better as text)
"""Words, invented words and identifiers, and their split into those of train and of heldout.

A word belongs to `heldout` by its hash alone, whatever pool it is in, so that no heldout noun or
proper name occurs in training.
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
    "search": "search find list query browse scan explore show".split(),
    "details": "get view inspect check describe examine".split(),
    "act": "reserve hold claim open request secure take block order select".split(),
    "confirm": "confirm pay submit settle complete approve finish buy".split(),
    "cancel": "cancel release drop undo remove delete".split(),
    "create": "create add make register post send save update set log".split(),
}

PRICE = "price cost fee rate charge amount total rent".split()
GOOD = "rating score grade quality stars points".split()
PLACE = "town city area region district place zone site".split()
PEOPLE = "people persons party seats size group members crew heads count adults".split()
COUNT = """
    days hours weeks months rounds sessions minutes units pieces boxes bags copies lessons rooms
    tables tickets desks beds tours lines pages parts sets
""".split()
PERSON = "name customer owner client holder user contact member".split()
METHOD = "method payment account card source wallet".split()
METHODS = "card coupon wallet invoice credit transfer cash points debit bank token cheque".split()
SORT = "sort sort_by order order_by".split()
ID = "id code ref key number".split()
HOLD = "reservation draft request lock order slip claim".split()
FINAL = "confirmation receipt reference ticket voucher contract code".split()
ATTRIBUTES = {
    "color": "red blue green black white yellow grey brown".split(),
    "type": "basic plus pro lite mini standard family express".split(),
    "kind": "open closed mixed small large round flat double".split(),
    "side": "north south east west upper lower inner outer".split(),
    "season": "spring summer autumn winter".split(),
    "tier": "gold silver bronze copper".split(),
    "mode": "manual auto remote shared fast slow".split(),
}
COMMON = """
    able above across action address advance advice after again agent air alarm animal answer apple
    army arrow artist aspect autumn baker balance band bank barrel basin beach bean bear beauty
    bell bench birth blade blanket blood blossom bone border bottle bottom branch bread breath
    bridge bright brother brush bucket budget bundle burden butter button candle canvas captain
    carbon castle cattle cause centre chain chalk chance change chapter cheese chest chief child
    choice church circle citizen claim cloud coal coffee collar column comfort common copper corner
    cotton council cousin cover cream credit cross crown culture current custom damage danger
    daughter dealer degree design desire detail device dinner doctor dollar double dragon dream
    dress driver early earth effect effort eight engine escape evening event exact expert eye
    fabric factor family famous farmer father feather fence fiction field fight figure filter
    finger flame flight floor flour flower forest fortune frame freedom friend frost fruit future
    gallon gentle giant given glass glory gold grain grand grass great green ground growth guard
    guess guide guitar habit hammer handle harvest heart heavy height helper honey house hunter
    image income insect island jacket joint judge juice jungle kitchen knife knight ladder lake
    leader leather leaf legend lemon letter level light limit linen liquid listen little lodge
    lover lunch magic manner marble margin market master matter member memory metal middle might
    mineral minister mirror model moment monkey month moral morning mother mountain music nation
    nature needle nerve nest north notice object ocean offer office onion opera orange orbit order
    origin other outer oven owner oxygen palace parent park partner party past pattern pause
    peace pencil people pepper period person pillow pilot pirate planet plant plate player poet
    poison police porter potato powder power prayer price prince prison private prize problem
    profit public pupil purpose quest question quick quiet rabbit radio railway random reason
    record region relief remote report rescue rest reward rhythm right river rocket roof root round
    royal rubber ruler safety sailor salad salt sand scale scene school science screen search
    season second secret sector senior servant seven shadow shape sharp shelter shoulder sight
    signal silence silver simple singer sister skill sleep slight smile smoke social soldier
    south speaker spider spirit square stable staff station statue steam steel step stone storm
    story strange street strong student subject sugar summer supper supply surface system talent
    target temple tender theatre thing thought thread throat thunder tight timber tiger tobacco
    tongue tooth tower traffic travel treasure trouble tunnel turn twelve uncle union upper urban
    useful valley value vessel victory village vision visitor voice voyage wagon waist water wealth
    weapon weather weight wheel whisper white widow window winter wisdom witness wonder worker
    world wound writer yellow young youth
""".split()
ROLES = "system user assistant tool".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()

FORBIDDEN_NAMES = frozenset(
    """paris rome oslo lima bern bonn kiel lyon nice turin milan london berlin madrid porto faro
    split riga bari pisa siena tunis cairo dubai doha delhi agra seoul kobe tokyo reno tampa dallas
    malaga geneva zurich vienna graz linz basel ghent krakow prague brno sofia varna malmo
    hotel guest stay night lisbon visa amex paypal maestro klarna""".split()
)


@lru_cache(maxsize=200_000)
def split_of(word: str) -> Split:
    """The split a word belongs to, by hash."""
    digest = hashlib.blake2b(word.lower().encode(), digest_size=4).digest()
    return "heldout" if int.from_bytes(digest, "big") % 100 < HELDOUT_PERCENT else "train"


@lru_cache(maxsize=512)
def _pool(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    return tuple(word for word in words if split_of(word) == split)


def pool(words: list[str], split: Split) -> tuple[str, ...]:
    """The words of a pool that belong to the split. In `new` only nouns are unseen."""
    if split == "new":
        return _pool(tuple(words), "heldout" if words is NOUNS else "train")
    return _pool(tuple(words), split)


def base(split: Split) -> Split:
    """The split of the words that are neither nouns nor proper names."""
    return "train" if split == "new" else split


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@lru_cache(maxsize=1)
def _followers() -> dict[str, str]:
    """What follows each letter in the pools' words; "^" begins a word."""
    found: dict[str, str] = {}
    verbs = {verb for pool in VERBS.values() for verb in pool}
    for word in sorted({*COMMON, *NOUNS, *COUNT, *PERSON, *PLACE, *verbs}):
        if split_of(word) == "train":
            for a, b in zip("^" + word, word, strict=False):
                found[a] = found.get(a, "") + b
    return found


def pseudo(rng: Random, split: Split) -> str:
    """An invented word of the split, spelled as English is, or a little more freely."""
    follow = _followers()
    free = 0.05 if rng.random() < 0.85 else 0.3
    wanted = "train" if split == "train" else "heldout"
    while True:
        text = ""
        for _ in range(rng.choice((3, 4, 4, 4, 5, 5, 6, 7))):
            text += rng.choice(
                _LETTERS if rng.random() < free else follow.get(text[-1:] or "^", _LETTERS)
            )
        if split_of(text) == wanted and not {text, text.removesuffix("s")} & FORBIDDEN_NAMES:
            return text


def blend(rng: Random) -> str:
    """A training word that begins like one word and ends like another.

    Its tokens have other followers elsewhere: it is to be copied, not completed by habit. Some
    begin with a role's name, which is a token that the format alone would teach.
    """
    words = (*pool(COMMON, "train"), *pool(NOUNS, "train"))
    while True:
        head = rng.choice(words)[: rng.randrange(2, 5)]
        tail = rng.choice(words)[-rng.randrange(2, 5) :]
        text = rng.choice(ROLES) + tail[-2:] if rng.random() < 0.1 else head + tail
        if split_of(text) == "train" and not {text, text.removesuffix("s")} & FORBIDDEN_NAMES:
            return text


def plural(text: str) -> str:
    if text.endswith("y") and text[-2:-1] not in "aeiou":
        return text[:-1] + "ies"
    return text + ("es" if text.endswith(("s", "x", "ch", "sh")) else "s")


def singular(text: str) -> str:
    if text.endswith(("xes", "ches", "shes", "sses")):
        return text[:-2]
    return {"people": "person"}.get(text, text.removesuffix("s"))


class Names:
    """The words of one dialogue: no two alike, a share of them invented."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng, self.split = rng, split
        self.strange = rng.choice(
            (0.0, 0.3, 0.6, 0.9) if split == "train" else (0.0, 0.0, 0.3, 0.6)
        )
        self.used: set[str] = set()

    def word(self, words: list[str], split: Split | None = None) -> str:
        """A word of the pool, or an invented one; that of a `split` where it is given."""
        of = split or base(self.split)
        known = pool(words, of)
        for _ in range(40):
            made = not known or self.rng.random() < self.strange
            text = self._other(of) if made else self.rng.choice(known)
            if text not in self.used:
                break
        else:
            text = pseudo(self.rng, of)
        self.used.add(text)
        return text

    def _other(self, split: Split) -> str:
        """A word that no pool knows, mostly invented."""
        if split == "train" and self.rng.random() < 0.3:
            return blend(self.rng)
        if self.rng.random() < 0.5:
            return self.rng.choice(pool(COMMON, split))
        return pseudo(self.rng, split)

    def noun(self) -> str:
        """What a service is about; unseen in `new` and `heldout`."""
        return self.word(NOUNS, "train" if self.split == "train" else "heldout")

    def many(self, words: list[str]) -> str:
        """A word for what is counted: in the plural."""
        text = self.word(words)
        if text in words:
            return text
        self.used.add(plural(text))
        return plural(text)

    def proper(self) -> str:
        """A name of a place or a person."""
        return pseudo(self.rng, self.split).capitalize()


_UPPER = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_MIXED = "abcdefghjkmnpqrstuvwxyz0123456789"
_STYLES = ("letter",) * 8 + ("dash",) * 3 + ("prefix",) * 2 + ("plain",) * 2 + ("mixed", "upper")


class IdStyle:
    """One way of writing identifiers; `new` never returns the same one twice."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.seen: set[str] = set()
        self.style = rng.choice(_STYLES)
        self.prefix = "".join(rng.choice(_UPPER) for _ in range(rng.choice((1, 2))))
        self.low = "".join(rng.choice(_LETTERS) for _ in range(2))
        self.digits = rng.choice((2, 3, 3, 3, 4, 4, 5))

    def _draw(self) -> str:
        rng, low = self.rng, 10 ** (self.digits - 1)
        number = str(rng.randrange(low, 10 * low))
        match self.style:
            case "letter":
                return f"{self.prefix[0]}{number}"
            case "dash":
                return f"{self.prefix}-{number}"
            case "prefix":
                return f"{self.low}_{number}"
            case "mixed":
                return "".join(rng.choice(_MIXED) for _ in range(max(3, self.digits)))
            case "upper":
                return "".join(rng.choice(_UPPER) for _ in range(2)) + number
        return number

    def new(self) -> str:
        for _ in range(200):
            value = self._draw()
            if value not in self.seen:
                self.seen.add(value)
                return value
        self.digits += 1
        return self.new()
