"""Text that is no description of a clip: refusals, the prompt over again, fields of JSON, broken encodings."""

from __future__ import annotations

import re

from pydantic import Field

from captioning.checks.flag import Flag
from captioning.checks.screen_text import longest_run
from captioning.checks.words import brief, unquoted, words
from orchestration.config import Config

_REFUSAL = re.compile(
    r"""(?:^|[.!?]\s+)(?:i['’]m\s+)?(?:sorry|i\s+apologi[sz]e|apologies|unfortunately)\b[,.]?\s*(?:but\s+)?
      (?:i|for|no|it|the|there)\b
    | \bI(?:['’]m|\s+am)\s+(?:sorry|(?:not\s+able|unable)\s+to)\b
    | \bI\s+(?:cannot|can['’]t|can\s+not|could\s+not|couldn['’]t|do\s+not|don['’]t|am\s+not|won['’]t|will\s+not)\b
    | \bas\s+an?\s+(?:AI|artificial|(?:large\s+)?language\s+model)\b
    | \bI(?:['’]m|\s+am)\s+an?\s+(?:AI|language\s+model|assistant)\b
    | \b(?:it\s+is|it['’]s)\s+(?:not\s+possible|impossible|difficult|hard|unclear)\s+
      (?:to\s+(?:determine|say|tell|describe|identify|see|know)|what)\b
    | \b(?:unable|not\s+able)\s+to\s+(?:provide|view|describe|assist|identify|access|watch|determine)\b
    | \b(?:video|image|clip|footage|frame)s?\s+(?:is|are)\s+
      (?:too\s+(?:blurry|dark|short|unclear|blurred|noisy|low)|not\s+(?:clear|available|provided))
    | (?:\bplease\s+|\b(?:can|could)\s+you\s+|^|[.!?]\s+)
      (?:provide|upload|attach|share)\s+(?:the|a|an|your|it|more)\b[^.]{0,40}
      \b(?:video|image|again|description|frames|file)\b""",
    re.I | re.X,
)
_CHAT = re.compile(
    r"\bI(?:['’](?:m|ve|d|ll)|\s+(?:am|can|hope|think|believe|would|will|have|was|see|guess|assume|notice|apologi[sz]e))\b"
    r"|\b[Mm]ay\s+I\b|\b(?:can|could)\s+I\s+(?:help|assist)\b|\b[Yy]ou\s+are\b|\bhelpful\s+(?:AI\s+)?assistant\b",
)
_TEMPLATE = re.compile(
    r"<\|[\w/ ]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:image|video|img|vid|frames?|think|answer|/think|/answer)>"
    r"|\b(?:USER|ASSISTANT|SYSTEM|Human|Assistant|User)\s*:|\{\{?\s*\w+\s*\}?\}"
    r"|\byou\s+(?:are|will\s+be)\s+(?:given|shown|provided)\b"
    r"|\b(?:the|your)\s+(?:caption|description|summary|answer)\s+(?:should|must|has\s+to|needs\s+to|is\s+to)\b"
    r"|\b(?:describe|caption|summari[sz]e|rewrite)\s+(?:the|this|these)\s+(?:video|clip|image|caption|scene|frames?)\b"
    r"|\b(?:do\s+not|don['’]t|avoid)\s+(?:start|begin|mention|use|includ|add|writ)\w*\b"
    r"|\breturn\s+(?:a|an|only|the)\s+(?:\w+\s+)?JSON\b",
    re.I,
)
_JSON = re.compile(
    r"^\s*[\[{]\s*[\"'{\[]|[\"']\w+[\"']\s*:|[\"']\s*,\s*[\"']\w+[\"']\s*:|:\s*(?:null|None)\b|:\s*(?:\[\]|\{\})|[\"']\s*[}\]]|\\n|\\\""
)
_BROKEN = re.compile(
    r"\ufffd|&(?:#\d+|#x[0-9a-f]+|[a-z]{2,8});|[\x00-\x08\x0b\x0c\x0e-\x1f]|Ã[\x80-\xbf©¨¼¶¤]|â€", re.I
)


class ContentConfig(Config):
    echo: int = Field(default=8, ge=4, description="words in a row that the caption shares with its prompt")


def content(text: str, config: ContentConfig, prompt: str = "") -> list[Flag]:
    """Flags `refusal`, `chat`, `prompt`, `json`, `encoding`. prompt: what was asked, to find its words again."""
    own = unquoted(text)
    flags = []
    for name, says, pattern, where in (
        ("refusal", "refuses or cannot tell", _REFUSAL, own),
        ("chat", "speaks as a chat partner", _CHAT, own),
        ("prompt", "holds words of a prompt", _TEMPLATE, own),
        ("json", "holds pieces of JSON", _JSON, text),
        ("encoding", "holds broken characters or mark-up", _BROKEN, text),
    ):
        if match := pattern.search(where):
            flags.append(Flag(name, f"{says}: '{brief(match.group())}'"))
    run = longest_run(words(own), words(prompt)) if prompt else []
    if len(run) >= config.echo and not any(flag.name == "prompt" for flag in flags):
        flags.append(Flag("prompt", f"repeats {len(run)} words of the prompt: '{brief(' '.join(run))}'"))
    return flags
