"""As much English as sentences out of fields need: articles, number, and which words carry meaning."""

from __future__ import annotations

import re
from functools import cache
from typing import Any


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SINGULAR = words("a an one each every another this that what someone somebody")
PLURAL = words("two three four five six seven eight nine ten several many some few both these those multiple various")
DETERMINERS = SINGULAR | PLURAL | words("the his her their its my our your")
PRONOUNS = words("he she it they there we his her their its")
PLACES = words(
    "in on at inside outside outdoors indoors under near by along among between beside beneath above over through "
    "across within around underwater behind before from against into onto"
)
FASTENED = PLACES | words("with without of who that which whose dressed made covered")  # to a noun, without a comma
MASS = words(
    "water snow smoke fire rain sand grass ice fog mist light traffic food hair mud dust nature countryside "
    "wilderness furniture luggage foliage vegetation grassland woodland darkness space sky sunlight daylight people"
)
STOP = words(
    "a an the this that these those there here it its he she they his her their is are was were be been being has have "
    "and or but with in on at of to from by for as into onto while then setting style lighting light lit camera shot "
    "seen text screen reads place takes"
)
_HEAD_ENDS = re.compile(r",|\s(?:with|in|on|of|at|from|near|by|who|that|which|\w{2,}ing)\b", re.I)


def content(text: str) -> frozenset[str]:
    """The words that carry meaning, without endings."""
    found = re.findall(r"\w+", text.lower().replace("'s ", " "))
    stems = (re.sub(r"(?<=\w{3})(?:ing|ed|es|s)$", "", word) for word in found if word not in STOP)
    return frozenset(re.sub(r"([bdgmnprt])\1$", r"\1", stem) for stem in stems)


def first(text: str) -> str:
    """The first word, in lower case; empty where the text begins with none."""
    found = re.match(r"[\w'-]+", text)
    return found[0].lower() if found else ""


def head(text: str) -> str:
    """The noun of "a tall man with two dogs": what stands before the first preposition or comma."""
    found = re.findall(r"[\w'-]+", _HEAD_ENDS.split(text, maxsplit=1)[0])
    return found[-1].lower() if found else ""


def plural(text: str) -> bool:
    start, noun = first(text), head(text)
    if re.search(r"\band (?:a|an|another|the|his|her|their|its|two|three|several)\b", text, re.I):
        return True
    if start in SINGULAR:
        return False
    if start in PLURAL or re.fullmatch(r"0|[2-9]|[1-9][0-9]+", start):
        return True
    if not re.fullmatch(r"[a-z]{3,}", noun) or re.search(r"(?:ss|us|is|lens|news)$", noun):
        return False
    return bool(_inflect().singular_noun(noun))


def be(who: str) -> str:
    return "are" if plural(who) else "is"


def third(verb: str) -> str:
    """What one does: pans, dollies, pushes."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("sh", "ch", "s")) else "s")


def lower(text: str, any_word: bool = False) -> str:
    """Begun in lower case, unless the first word may be a name."""
    start = first(text)
    known = any_word or start in DETERMINERS | PRONOUNS | FASTENED or start.endswith("ing")
    return text[0].lower() + text[1:] if known and not text[:2].isupper() else text


def with_article(text: str) -> str:
    """With a or an where it has no article and is no name, no plural and nothing uncountable; a wrong one is mended."""
    start, rest = first(text), text.partition(" ")[2]
    if not re.match(r"[A-Za-z]", text):
        return text
    if start in {"a", "an"} and re.match(r"[a-z]", rest):
        return _inflect().a(rest)
    if start in DETERMINERS | PRONOUNS | FASTENED:
        return lower(text)
    if not text[0].islower() or plural(text) or head(text) in MASS:
        return text
    return _inflect().a(text)


@cache
def _inflect() -> Any:
    import inflect  # takes a second

    return inflect.engine()
