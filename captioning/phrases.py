"""Sentences of fields that models fill in as they like: fragments, clauses, or several sentences."""

from __future__ import annotations

import re

from captioning import english
from captioning.checks.clean import without_opener
from captioning.checks.words import sentences as split
from captioning.english import be, content, lower, third, with_article

_MEDIUM = r"(?:video|clip|footage|scene)"
# Of a field: where it plays, rather than what a caption opens with.
_PLAYS = re.compile(
    rf"^(?:this|the|a|an) (?:\w+ )?{_MEDIUM} (?:takes? place|is set|is about|focus(?:es)? on)\b\s*", re.I
)
_ASIDES = re.compile(
    rf",?\s*\b(?:at the (?:start|beginning|end) of|in|of|throughout|during|across)\s+(?:this|the)\s+"
    rf"(?:(?:entire|whole)\s+)?{_MEDIUM}\b",
    re.I,
)
_ITSELF = re.compile(
    rf"\b(?:the|this)\s+(?:(?:entire|whole)\s+)?{_MEDIUM}\b('s)?(?!\s+(?:game|call|camera|screen|wall|monitor|conference))",
    re.I,
)
_NOUN_LEFT = re.compile(rf"(?:^|\s+){_MEDIUM}s?$", re.I)
_NOTHING = re.compile(
    r"^(?:none|n/?a|null|unknown|unclear|unspecified|nothing|"
    r"not (?:specified|visible|applicable|available|known|shown|clear))\b(?: visible| specified| shown)?$|"
    r"^(?:there (?:is|are) )?(?:no|not any|nothing|none of)\b",
    re.I,
)
_WITHOUT = re.compile(
    r",?\s*\b(?:and|with|but)\s+no\s+(?:[\w-]+\s+){1,5}?(?:visible|present|seen|in sight|in view|on screen)\b", re.I
)
_CLAUSE = re.compile(
    r"^(?:the|it|its|there|this|everything|all)\b(?:\W+[\w'-]+){0,4}?\W+(?:is|are|has|have|consists?|comes?|takes?|looks?|"
    r"appears?|features?|falls?|fills?|lies?|stands?)\b",
    re.I,
)
CAMERA = english.words(
    "pan tilt zoom dolly track truck roll orbit crane push pull follow shake move rise descend rotate circle drift "
    "glide sweep swing boom tremble turn"
)
_STILL = re.compile(
    r"^(?:the )?(?:camera )?(?:is |remains |stays |holds )?(?:\w+ly )?(?:static|still|fixed|stationary|steady|"
    r"motionless|locked(?:[ -](?:off|down))?)(?: camera| shot)?$",
    re.I,
)
_ANGLES = (
    (re.compile(r"^(?:at )?eye[- ]level(?: angle| view| shot)?$", re.I), "at eye level"),
    (re.compile(r"^(?:from )?(?:a )?(low|high)(?:[- ]angle)?(?: view| shot)?$", re.I), r"from a \1 angle"),
    (re.compile(r"^(?:from )?(?:overhead|top[- ]down|above)(?: angle| view| shot)?$", re.I), "from above"),
    (re.compile(r"^(?:from )?(?:a )?bird'?s?[- ]eye(?:[- ]view)?$", re.I), "from a bird's-eye view"),
    (re.compile(r"^(?:at )?(?:a )?dutch(?: angle| tilt)?$", re.I), "at a Dutch angle"),
)


def sentences(text: str) -> list[str]:
    """The text's finished sentences, without openers and claims of absence."""
    return [sentence(part) for part in parts(text)]


def sentence(text: str) -> str:
    """With a capital and one full stop; empty where the text has no words."""
    text = _tidied(text)
    first = next((place for place, letter in enumerate(text) if letter.isalnum()), 0)
    return f"{text[:first]}{text[first].upper()}{text[first + 1 :]}." if text else ""


def parts(text: str) -> list[str]:
    """The text's sentences as `sentences` has them, but without capital and full stop."""
    found = (_tidied(_clean(part)) for part in split(" ".join(text.split())))
    return [part for part in found if content(part)]


def trim(text: str, words: int) -> str:
    """The text up to its last clause that ends within so many words; all of it where none does."""
    said = text.split()
    if len(said) <= words:
        return text
    for count in range(words, 4, -1):
        after = said[count].lower().strip(",;")
        starts = after in english.DETERMINERS | english.PRONOUNS | {"and", "but", "then", "with"} or after.endswith(
            "ing"
        )
        conjunction = after in {"while", "as", "before", "after", "where", "which", "who", "when", "until"}
        if conjunction or (said[count - 1][-1] in ",;" and starts):
            return " ".join(said[:count])
    return text


def name(text: str) -> str:
    """A subject's name with an article where English wants one."""
    return with_article("; ".join(parts(text)))


def described(who: str, appearance: str) -> str:
    """Name and appearance; ends with a comma where a comma must come before what follows."""
    look = ", ".join(parts(appearance))
    look = re.sub(r"^(?:he|she|it|they)\s+(?=(?:is|are|has|have|wears?)\b)", "", look, flags=re.I)
    look = re.sub(r"^(?:has|have|having)\s+", "with ", look, flags=re.I)
    look = re.sub(r"^wears?\s+", "wearing ", look, flags=re.I)
    look = re.sub(r"^(?:is|are)\s+", "", look, flags=re.I)
    if not look or content(look) <= content(who):
        return who
    first = english.first(look)
    if first in english.FASTENED or (first.endswith("ing") and len(first) > 4):
        return f"{who} {look}"
    return f"{who}, {look},"


def predicate(who: str, action: str) -> str:
    """What comes after the name; empty where the action is a sentence of its own."""
    action = lower(action)
    first = english.first(action)
    if not first or first in english.DETERMINERS | english.PRONOUNS or first == english.head(who):
        return ""
    if first in english.PLACES or (first.endswith("ing") and len(first) > 4):
        return f"{be(who)} {action}"
    return action


def about(subject: str, text: str) -> list[str]:
    """What `subject`, setting or style, is."""
    found = []
    for part in parts(text):
        if _CLAUSE.match(part):
            found.append(part)
        elif english.first(part) in english.PLACES:
            found.append(f"it {'takes place' if subject == 'setting' else 'is'} {lower(part)}")
        elif subject == "setting":
            found.append(f"the setting is {with_article(part)}")
        elif bare := re.sub(r"[\s-]+styled?$|^style:?$", "", part, flags=re.I):
            found.append(f"the style is {lower(bare)}")
    return [sentence(each) for each in found]


def light(text: str) -> list[str]:
    found = []
    for part in parts(text):
        if _CLAUSE.match(part):
            found.append(part)
        elif english.first(part) in {"from", "through"}:
            found.append(f"the light comes {lower(part)}")
        else:
            bare = re.sub(r"^(\S+) light(?:ing)?$", r"\1", part, flags=re.I)
            found.append(f"the lighting is {lower(bare)}")
    return [sentence(each) for each in found]


def camera(text: str) -> list[str]:
    """What the camera does; nothing where it stands still."""
    verbs = "|".join(sorted(CAMERA))
    found = []
    for part in parts(text):
        part = re.sub(r"^camera\b(?=\s\w+(?:s|ing)\b)", "the camera", part, flags=re.I)
        first = english.first(part)
        if _STILL.match(part):
            continue
        if re.match(r"the camera\b|it\b|there\b", part, re.I):
            found.append(part)
        elif re.search(r"\bshot$", part, re.I):
            found.append(f"it is {with_article(part)}")
        elif first in CAMERA or first in map(third, CAMERA):
            turned = re.sub(
                rf"(^|\b(?:and|then|while|before)\s+|,\s+)({verbs})(?![\w-])",
                lambda match: match[1] + third(match[2].lower()),
                part,
                flags=re.I,
            )
            found.append(f"the camera {lower(turned, any_word=True)}")
        elif re.fullmatch(r"hand-?held(?: camera)?|(?:slightly )?shaky", part, re.I):
            found.append(f"the camera is {part.lower().removesuffix(' camera')}")
        elif first.endswith("ing"):
            found.append(f"the camera is {lower(part, any_word=True)}")
        else:
            found.append(f"the camera motion is {with_article(part)}")
    return [sentence(each) for each in found]


def shot(kind: str, angle: str) -> list[str]:
    kinds, angles = parts(kind), parts(angle)
    where, found = "", []
    for part in angles:
        known = next((rule.sub(said, part) for rule, said in _ANGLES if rule.match(part)), "")
        if known and not where:
            where = known.replace("Low", "low").replace("High", "high")
        else:
            found.append(part if _CLAUSE.match(part) else f"the camera angle is {with_article(part)}")
    if kinds and not _CLAUSE.match(kinds[0]):
        whole = f"{kinds[0]} shot" if re.fullmatch(r"(?:\w+ )?(?:wide|medium|long|full)", kinds[0], re.I) else kinds[0]
        first = f"it is {with_article(whole)} {where}"
        kinds = kinds[1:]
    else:
        first = f"it is seen {where}" if where else ""
    return [made for each in (first, *kinds, *found) if (made := sentence(each))]


def listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _clean(part: str) -> str:
    part = part.strip(" .!?…,;:")
    part = _WITHOUT.sub("", part)
    if _NOTHING.match(part):
        return ""
    part = _PLAYS.sub("", without_opener(part), count=1)
    part = _ASIDES.sub("", part)
    part = _ITSELF.sub(lambda match: "its" if match[1] else "it", part)
    return _NOUN_LEFT.sub("", part).strip(" ,;:")


def _tidied(text: str) -> str:
    """Without doubled spaces, empty clauses and punctuation at the ends; empty where there is no letter or digit."""
    text = re.sub(r"\s+([,;:])", r"\1", " ".join(text.split()))
    text = re.sub(r"[,;:](?:[,;:.!?\s]*[,;:.])+", ",", text)
    text = re.sub(r"^[^\w\"“'(\[]+", "", text).rstrip(" .!?…,;:-–—")
    return text if any(letter.isalnum() for letter in text) else ""
