"""A caption without what is not about the clip: openers, chat, mark-up, claims of absence. Words are only removed.

Captions are to be what the clip shows, not that it shows something (CogVideoX's and xGen-MM-Vid's prompts forbid both
openers and absence; models use them all the same).
"""

from __future__ import annotations

import re
import unicodedata

from captioning.checks.words import sentences

_KIND = (
    r"(?:videos?|clips?|footage|images?|pictures?|photos?|frames?|scenes?|sequences?|films?|movies?|animations?"
    r"|recordings?)"
)
_MEDIUM = (
    r"(?:(?:short|brief|given|provided|above|following|entire|whole|first|second|third|opening|final|last"
    rf"|next|same|video|film|movie|animated|time-lapse)\s+)*{_KIND}(?:\s+(?:clips?|footage|sequence|frames?|segment|recording))?"
)
_THE = r"(?:the|this|that|these|our)"
_SHOWS = (
    r"(?:(?:then|also|first|now|primarily|mainly|simply|clearly|next|finally|briefly|vividly)\s+)?"
    r"(?:(?:begins?|starts?|opens?|continues?|concludes?|ends?|closes)\s+(?:with|by\s+showing|on)"
    r"|(?:seems?|appears?)\s+to\s+(?:show|depict|feature|capture)"
    r"|is\s+an?\s+(?:depiction|representation|portrayal|recording)\s+of(?:\s+(?:a\s+scene\s+(?:where|in\s+which|of)))?"
    r"|(?:shows?|showing|depicts?|depicting|features?|featuring|captures?|capturing|showcas(?:es?|ing)|displays?"
    r"|presents?|portrays?|reveals?|illustrates?|documents?))\s+(?:(?:us|the\s+viewer)\s+)?(?:that\s+)?(?!how\b|what\b|why\b)"
)
_SEE = (
    r"(?:(?:we|you|one|viewers?|the\s+viewer)\s+(?:(?:can|could|are\s+able\s+to)\s+)?(?:clearly\s+)?"
    r"(?:see|observe|watch|witness|notice)s?\s+(?:that\s+)?)"
)
_OPENERS = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        rf"^{_THE}\s+{_MEDIUM}\s+{_SHOWS}",
        rf"^(?:this|it|the\s+following|here)\s+is\s+(?:an?|the)\s+{_MEDIUM}\s+(?:of|that\s+shows|which\s+shows|showing|depicting)\s+",
        r"^an?\s+(?:short\s+|brief\s+)?(?:video|clip|video\s+clip|footage|image)\s+(?:of|that\s+shows|showing|depicting)\s+",
        r"^footage\s+(?:of|showing)\s+",
        rf"^(?:in|within|throughout|during|across|over\s+the\s+course\s+of)\s+{_THE}\s+{_MEDIUM}\s*,?\s+{_SEE}?(?=\w)(?!of\b|and\b|is\b|are\b|with\b)",
        rf"^(?:(?:at|in|by|near|towards?)\s+the\s+(?:very\s+)?(?:beginning|start|end|middle|opening)\s+of\s+{_THE}\s+{_MEDIUM})\s*,\s+{_SEE}?",
        rf"^(?:as|while|when)\s+{_THE}\s+{_MEDIUM}\s+(?:progresses|continues|begins|starts|opens|unfolds|goes\s+on|plays|ends)\s*,\s+{_SEE}?",
        rf"^(?:based\s+on|according\s+to|judging\s+from|from)\s+{_THE}\s+{_MEDIUM}\s*,\s+",
        rf"^{_SEE}",
    )
)
_IT_SHOWS = re.compile(rf"^(?:it|the\s+view|the\s+scene)\s+{_SHOWS}", re.I)
_IS_SEEN = re.compile(r"\s(?:is|are|was|were|can\s+be)\s+(?:seen|shown|depicted|visible)(?=\s+\w+ing\b)", re.I)
_ABSENCE = re.compile(
    rf"""^(?:(?:and|but|also|additionally|however|overall),?\s+)?(?:
      there(?:\s+(?:is|are|appears?\s+to\s+be)|['’]s)\s+(?:no|not\s+any|nothing|nobody|no\s+one)\b
    | no\s+[^.;]*\b(?:visible|present|shown|seen|discernible|discerned|detected|provided|apparent|included|mentioned)\b
    | (?:{_THE}\s+{_MEDIUM}|it)\s+
      (?:does\s+not|doesn['’]t|do\s+not|lacks?|(?:contain|feature|show|include)s?\s+no|ha(?:s|ve)\s+no)\b
    | (?:the\s+)?[\w\s,]{{3,60}}\s(?:is|are)\s+not\s+
      (?:specified|known|mentioned|visible|shown|discernible|identifiable|stated|provided)\b
    )""",
    re.I | re.X,
)
_ABSENT_TAIL = re.compile(
    r",?\s+(?:(?:and|but)\s+there(?:\s+(?:is|are)|['’]s)\s+no\s|(?:and|but|with)\s+no\s(?=[^.,;!?]*\b(?:visible|present|discernible|in\s+sight)))[^.,;!?]*(?=[.!?])",
    re.I,
)
_CHAT = re.compile(
    rf"""^(?:
      (?:please\s+)?let\s+me\s+know\b | i\s+hope\s+(?:this|that|it)\b | feel\s+free\s+to\b | would\s+you\s+like\b
    | if\s+you\s+(?:need|want|have|would\s+like|['’]d\s+like)\b | is\s+there\s+anything\s+else | do\s+you\s+want\s+me\b
    | (?:overall|in\s+summary|in\s+conclusion|in\s+general),?\s+(?:{_THE}|it)\b
    | (?:this|the\s+above)\s+(?:caption|description|summary)\b | note(?:\s+that)?\s*: | \(?\d+\s+words\)?[.]?$
    | (?:sure|certainly|of\s+course|absolutely|okay|ok|great|alright)(?:\s+thing)?[!.]+$
    )""",
    re.I | re.X,
)
_GREETING = re.compile(
    r"^(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|okay|ok|alright|great)\s*[!,.:]\s*(?=\S)", re.I
)
_HERE_IS = re.compile(
    r"^(?:here(?:\s+is|\s+are|['’]s)|below\s+is|this\s+is|the\s+following\s+is)\s+[^.:\n]{0,80}"
    r"(?:caption|description|summary|version|rewrite|text|answer|response)[^.:\n]{0,60}:\s*",
    re.I,
)
_LABEL = re.compile(
    r"^(?:(?:short|dense|long|detailed|video|image|final|brief|rewritten)\s+)*(?:caption|description|summary|answer|output|response)\s*:\s*(?=\S)",
    re.I,
)
_HEADING = re.compile(
    r"^#{1,6}\s*(?:(?:short|dense|detailed|video|final)\s+)*(?:caption|description|summary|answer|output|overview)\s*:?\s*#*$",
    re.I | re.M,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them
_PAIRS = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»"}


def clean(text: str) -> str:
    """`text` on one line without openers ("The video shows"), chat, mark-up and absence claims; idempotent. Empty when
    nothing is left. No word is added; a first letter becomes a capital."""
    while (peeled := _sentences(_markup(text))) != text:
        text = peeled
    first = text.split(" ", 1)[0]
    return text[0].upper() + text[1:] if first.islower() else text  # not iPhone


def _markup(text: str) -> str:
    text = unicodedata.normalize("NFC", text).replace("\r", "\n").replace("\u200b", "").replace("\ufeff", "")
    text = _CONTROL.sub("", text)
    text = re.sub(r"^\s*```\w*[ \t]*$|^\s*```|```\s*$", "", text, flags=re.M)
    text = _HEADING.sub("", text)
    text = re.sub(r"^\s*(?:#{1,6}\s+|[-*•]\s+|\d{1,2}[.)]\s+(?=[A-Z]))", "", text, flags=re.M)
    text = re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text, flags=re.S)
    text = re.sub(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])", r"\1", text)
    text = " ".join(text.split())
    if (
        len(text) > 1
        and text[0] in _PAIRS
        and text[-1] == _PAIRS[text[0]]
        and not set(text[1:-1]) & {text[0], text[-1]}
    ):
        text = text[1:-1].strip()
    for pattern in (_GREETING, _HERE_IS, _LABEL):
        text = _start(pattern.sub("", text, count=1), text)
    return text


def _sentences(text: str) -> str:
    kept, about_the_video = [], False
    for sentence in sentences(text):
        if _ABSENCE.match(sentence) or _CHAT.match(sentence):
            continue
        peeled = without_opener(sentence, about_the_video)
        about_the_video |= peeled != sentence
        peeled = _start(peeled, sentence)
        peeled = _ABSENT_TAIL.sub("", _IS_SEEN.sub("", peeled))
        kept.append(peeled)
    return " ".join(kept)


def without_opener(sentence: str, about_the_video: bool = False) -> str:
    """Without "The video shows" and the like at its beginning, as it is where nothing else is in it.

    about_the_video: "It shows" is such an opener too, since the sentence before spoke of the video.
    """
    for opener in (*_OPENERS, *((_IT_SHOWS,) if about_the_video else ())):
        rest = opener.sub("", sentence, count=1)
        if any(c.isalnum() for c in rest):
            sentence = rest
    return sentence


def _start(text: str, before: str) -> str:
    """With a capital when its beginning was cut off."""
    return text if text == before or not text else text[0].upper() + text[1:]
