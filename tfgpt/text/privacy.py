"""Masking of personal data and secrets in text: e-mail addresses, telephone, card and account numbers, IP addresses, keys.

A finding is what two agree on: an expression of ours that says how such a thing is written in running text, and the recognizer of
presidio-analyzer that checks it (checksums, domain endings, numbering plans). The recognizer is shown the candidate alone, never the text:
that makes it fast enough, and keeps time and memory bounded on any text. No language model takes part: names and postal addresses stay.
"""
from __future__ import annotations

import contextlib
import logging
import re
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

KINDS = ("email", "phone", "card", "iban", "ip", "key")
"""What can be masked."""

REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")
"""Whose telephone numbers are found without a country code: presidio's own choice (2.2)."""

LEAST_SCORE = 0.4
"""What presidio must give. E-mail addresses, cards and IBANs get 1.0 or nothing, IP addresses 0.6. Every telephone number gets 0.4: more would
come of the words nearby, which takes a language model. Below lies the IPv6 address "::" alone (0.1), which is mostly a piece of C++."""

Spans = Iterator[tuple[int, int]]
"""From and to, in characters, as in `text[start:end]`."""

# How they are written. Each expression starts with a class of characters and only then looks behind it (the last dot in a look-behind is the
# character just read): `re` skips to the next such character by itself, but not if a look-behind comes first (a fourth of the speed, on prose).
# None of them takes in a "<": what is masked already is left alone.

_DOMAIN = re.compile(r"@[\w-]{1,63}\.\w[\w.-]{0,254}")
_LOCAL_PART = re.compile(r"[\w.+%'-]+\Z")  # RFC 5322 also allows / = ? & and more; in text those belong to the URL around the address

_IBAN = re.compile(r"[A-Z](?<![A-Z0-9].)[A-Z][0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?![A-Z0-9])")

_CARD = re.compile(r"""
    [3-6] (?<![\w.].) (?<![0-9][ -].)                                 # not within a fraction or a row of numbers
    (?: (?: (?<=4) [0-9]{3} | (?<=5) [0-5][0-9]{2} | (?<=6) (?: 011 | 4[4-9][0-9] | [25][0-9]{2} ) | (?<=3) 5[0-9]{2} )
        ([ -]?) [0-9]{4} \1 [0-9]{4} \1 [0-9]{4}                      # Visa, Mastercard, Discover and UnionPay, JCB
      | (?<=3) [47][0-9]{2} ([ -]?) [0-9]{6} \2 [0-9]{5}              # American Express
      | (?<=3) [068][0-9]{2} ([ -]?) [0-9]{6} \3 [0-9]{4} )           # Diners Club
    (?! \w | \.[0-9] | [ -][0-9]{4}(?![0-9]) )""", re.VERBOSE)

_IP = re.compile(r"""
    [0-9:fF] (?<![\w.].)
    (?: (?<=[0-9]) [0-9]{0,2} (?:\.[0-9]{1,3}){3} (?:/[0-9]{1,2}(?!\w))? (?! \w | \.[0-9] )
      | (?<!:.) (?: (?<=:) :(?:[fF]{4}:)?[0-9]{1,3}(?:\.[0-9]{1,3}){3}
                  | (?: (?<=[23]) [0-9A-Fa-f]{3} | (?<=[fF]) (?: [CDFcdf][0-9A-Fa-f]{2} | [Ee][89ABab][0-9A-Fa-f] ) )  # all others are reserved
                    (?=:) [0-9A-Fa-f:.]{2,41} (?:(?<=[0-9A-Fa-f])|(?<=::)) )
        (?:%[0-9A-Za-z]{1,20})? (?:/[0-9]{1,3}(?!\w))? (?! \w | :[\w:] ) )""", re.VERBOSE)
_NOT_IPV6 = re.compile(r"[0-9]+::[0-9]*|[A-Fa-f:]+")  # a[2000::2], fade::face
_NUMBERING = re.compile(r"(?:(?:version|release|revision|section|chapter|clause)s?(?:[^\w\n]|_){0,7}|[=<>~]=)\Z", re.IGNORECASE)

# Four ways to write a telephone number: +44 20 7946 0958, (415) 555-2671, 0171 / 1234567, 415-555-2671. Digits alone are none of them.
_PHONE = re.compile(r"""
    [+＋(0-9] (?<!\w.) (?<![0-9][.,:].) (?<![-+/].) (?! [0-9]+\.[0-9]+ (?![.0-9]) )  # the last: a fraction
    (?: (?<=[+＋]) (?P<international> \(?[1-9] (?:[ \u00a0./()\u2010-\u2015-]{0,3}[0-9]){7,15} )
      | (?<![0-9][ ].)
        (?: (?<=\() (?! (?:19|20)[0-9]{2}\) ) (?P<bracketed> 0?[1-9][0-9]{1,4}\)[ ]?(?:[/-][ ]?)?[0-9]{2,8}(?:[ ./-][0-9]{2,8}){0,4} )
          | (?<=0) (?P<trunk> 0?[1-9][0-9]{0,5}
                              (?: (?:\.[0-9]{2}){4} | (?:\.[0-9]{3,4}){2} | (?:(?:[ \u00a0]|[ ]?[/\u2010-\u2015-][ ]?)[0-9]{2,8}){1,6} ) )
          | (?<=[1-9]) (?P<grouped> (?: (?<=1)[.-][2-9][0-9]{2} | (?<=[2-9])[0-9]{2} ) (?: \.[0-9]{3}\.[0-9]{4} | -[0-9]{3}-[0-9]{4} ) ) )
        (?! [ -][0-9] ) )
    (?! \w | [.:][0-9] )""", re.VERBOSE)
_LAST_GROUP = re.compile(r"[^0-9]+[0-9]+\Z")
_DATE = re.compile(r"(?<![0-9./-])[0-9]{1,2}([./-])[0-9]{1,2}\1(?:[0-9]{4}|[0-9]{2})(?![0-9]|\1[0-9])")

_TOKEN_STARTS = ("AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "sk-", "sk_live_", "sk_test_",
                 "rk_live_", "rk_test_", "AIza", "eyJ", "hf_", "npm_", "pypi-")
_TOKEN = re.compile(r"(?<![\w-])[A-Za-z][\w-]{15,}(?:\.[\w-]+)*")
_TOKEN_PATTERNS = {
    "AWS access key id": r"\AA[KS]IA[A-Z0-9]{16}\b",
    "GitHub": r"\A(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b",
    "GitLab, Hugging Face, npm, PyPI": r"\A(?:glpat-[\w-]{20}|hf_[A-Za-z0-9]{34}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,})(?![\w-])",
    "Slack": r"\Axox[abeprs]-(?=[\w-]*[0-9])[\w-]{10,}",
    "OpenAI, Anthropic": r"\Ask-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}",  # a digit and a capital: sk-fading-circle-animation is CSS
    "Stripe": r"\A[rs]k_(?:live|test)_[A-Za-z0-9]{16,}\b",
    "Google": r"\AAIza[\w-]{35}(?![\w-])",
    "JSON Web Token": r"\AeyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
}

_BLOCK_LENGTH = 20_000  # characters at most; an RSA key of 16,384 bits has 12,700
_BLOCK_START = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_PATTERNS = {
    "PEM": r"\A" + _BLOCK_START.pattern + r"(?=[^<]*[A-Za-z0-9+/]{32})(?:(?!-----)[^<])+-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
}

_SECRET_NAMES = ("pass", "pwd", "secret", "token", "api_key", "apikey", "api-key", "access_key", "accesskey", "access-key", "authorization")
_ASSIGNMENT = re.compile(r"""
    (?: (?P<password> (?:passw(?:or)?d|passphrase|(?<![a-z])pass|pwd)[0-9]? )
      | (?P<secret> secret(?:[_-]?access)?(?:[_-]?key)?(?:_base)? | token | api[_-]?key | access[_-]?key )
      | (?P<header> authorization ) )
    ["'`]? \]? [ \t]* (?:=>|:=|[:=]) [ \t]* (?: [a-z][\w.\[\]|]{0,30}[ ]=[ ] )?  # the last: password: str = "..."
    (?= [^0-9\n]{0,2048}[0-9] )""", re.VERBOSE)  # every value has a digit
_VALUE_LENGTH = 2500  # characters that are looked at behind the name; values have 2,048 at most
_QUOTED, _BARE = r"\s\"'`<>", r"\s\"'`<>(){}\[\],;&"  # what a value in quotes may not have, and one without
_NO_PLACEHOLDER = r"(?![$%]?[{(<\[]|https?:)"
_OPEN_QUOTE = r"\A[bru]{0,2}([\"'`])\K" + _NO_PLACEHOLDER
_OPEN_BARE = r"\A" + _NO_PLACEHOLDER + r"(?![A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:[\s,;]|\Z))"  # nor an attribute: self.password2
_CLOSE_BARE = rf"[^{_BARE}.:](?=[.:]?(?:[\s,;\"'`&]|\Z))"


def _mixed(ends: str) -> str:
    """Return a look-ahead for letters and two numbers (s3cr3t has them; sha256 and utf-8 do not), or a long mix of both cases and a digit."""
    some = f"[^{ends}]*"
    return f"(?:(?={some}[A-Za-z])(?={some}[0-9][^{ends}0-9]+[0-9])|(?=[^{ends}]{{32}})(?={some}[A-Z])(?={some}[a-z])(?={some}[0-9]))"


_VALUE_PATTERNS = {
    "password": {
        "quoted": _OPEN_QUOTE + rf"(?=[^{_QUOTED}]*[A-Za-z])(?=[^{_QUOTED}]*[0-9])[^{_QUOTED}]{{6,2048}}(?=\1)",
        "bare": _OPEN_BARE + _mixed(_BARE) + rf"[^{_BARE}]{{7,2047}}" + _CLOSE_BARE,
        "bare with a sign": _OPEN_BARE + rf"(?=[^{_BARE}]*[A-Za-z])(?=[^{_BARE}]*[0-9])(?=[^{_BARE}]*[!@#$%^*~?])[^{_BARE}]{{7,2047}}" + _CLOSE_BARE,
    },
    "secret": {
        "quoted": _OPEN_QUOTE + _mixed(_QUOTED) + rf"[^{_QUOTED}]{{12,2048}}(?=\1)",
        "bare": _OPEN_BARE + _mixed(_BARE) + rf"[^{_BARE}]{{15,2047}}" + _CLOSE_BARE,
    },
    "header": {"scheme and credentials": r"\A[\"'`]?(?i:bearer|basic|token)[ \t]+\K(?=\S*[0-9])[\w.~+/=-]{16,}"},
}


class Finding(NamedTuple):
    """Personal data or a secret at `text[start:end]`."""

    kind: str
    start: int
    end: int


class PersonalData:
    """Find and mask personal data and secrets; slow to make (presidio-analyzer takes some 12 s to import), so make one and keep it.

    Where findings overlap, the longest stays, and of equally long ones the one named last in `KINDS`.
    Masked text is masked for good: masking it once more finds nothing. Of an assigned secret (password = ...) the value alone is a finding.

    Not found, among others: telephone numbers in digits alone or with nothing but spaces (415 555 2671), or in other than ASCII digits; cards of
    17 and more digits or Mastercard's newer ones (2...); passwords without a digit or with spaces; keys of other makers outside an assignment.
    Found though innocent: one in ten of the numbers that start and are as long as a card's, and four-part version numbers that do not say so.

    Args:
        kinds: some of `KINDS`, in any order.
        regions: two letters each (ISO 3166). Of telephone numbers without a country code, theirs are found; those with one (+44 ...) always.

    Raises:
        ValueError: an unknown kind or region.
        RuntimeError: presidio-analyzer is not installed.

    >>> PersonalData().mask("Mail joe@example.com, or call +1 415-555-2671 before 2024-12-31.")
    ('Mail <EMAIL>, or call <PHONE> before 2024-12-31.', Counter({'email': 1, 'phone': 1}))
    """

    def __init__(self, kinds: Sequence[str] = KINDS, regions: Sequence[str] = REGIONS):
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"data.clean.mask: {kind!r} is no kind of personal data; choose from {', '.join(KINDS)}")
        searches = _searches(regions)
        self._searches = {kind: searches[kind] for kind in KINDS if kind in kinds}

    def find(self, text: str) -> list[Finding]:
        """Return what there is to mask, in order of start, none overlapping."""
        found = []
        while more := self._search(text):  # again, for what is found may have hidden its neighbour: a card in a row of numbers
            found += more
            text = _replace(text, more, _blank)
        return sorted(found, key=lambda finding: finding.start)

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """Return the text with each finding replaced by its kind, as <EMAIL>, and how many there were of each kind."""
        found = self.find(text)
        return _replace(text, found, lambda finding: f"<{finding.kind.upper()}>"), Counter(finding.kind for finding in found)

    def _search(self, text: str) -> list[Finding]:
        found = [Finding(kind, start, end) for kind, search in self._searches.items() for start, end in search(text)]
        kept: list[Finding] = []
        for finding in sorted(found, key=lambda finding: (finding.start - finding.end, -KINDS.index(finding.kind), finding.start)):
            place = bisect(kept, finding.start, key=lambda other: other.start)
            if (place == 0 or kept[place - 1].end <= finding.start) and (place == len(kept) or finding.end <= kept[place].start):
                kept.insert(place, finding)
        return kept


def _blank(finding: Finding) -> str:
    return "<" + ">" * (finding.end - finding.start - 1)  # as long as the finding, and to its neighbours the same as <EMAIL>


def _replace(text: str, findings: Iterable[Finding], replacement: Callable[[Finding], str]) -> str:
    pieces, at = [], 0
    for finding in findings:
        pieces += [text[at : finding.start], replacement(finding)]
        at = finding.end
    return "".join([*pieces, text[at:]])


@contextlib.contextmanager
def _without_pipelines() -> Iterator[None]:
    """Let presidio believe that transformers has no pipelines, which it uses none of here: they do not load where PyTorch is installed and USE_TORCH is 0."""
    name = "transformers.pipelines"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]


def _searches(regions: Sequence[str]) -> dict[str, Callable[[str], Spans]]:
    """Return for each kind what finds it."""
    logger = logging.getLogger("presidio-analyzer")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)  # else "Loaded recognizer" two dozen times in every log at level INFO
    try:
        with _without_pipelines():
            from presidio_analyzer import predefined_recognizers as presidio  # here, not above: it brings spaCy with it, and takes long
    except ImportError as error:
        raise RuntimeError("data.clean.mask: needs the package presidio-analyzer, which is not installed; pip install 'tfgpt[privacy]'") from error
    ipv4 = [pattern for pattern in presidio.IpRecognizer.PATTERNS if pattern.name == "IPv4"]  # half the time of all five
    return {
        "email": partial(_emails, _email_recognizer()),
        "phone": partial(_phones, _phone_checks(regions)),
        "card": partial(_cards, presidio.CreditCardRecognizer()),
        "iban": partial(_ibans, presidio.IbanRecognizer()),
        "ip": partial(_ips, presidio.IpRecognizer(patterns=ipv4), presidio.IpRecognizer()),
        "key": partial(_keys, _key_recognizer(_TOKEN_PATTERNS), _key_recognizer(_BLOCK_PATTERNS),
                       {name: _key_recognizer(patterns) for name, patterns in _VALUE_PATTERNS.items()}),
    }


def _email_recognizer() -> EntityRecognizer:
    import tldextract
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())  # the list in the package: no download, no file written

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return suffixes(pattern_text.rpartition("@")[2]).fqdn != ""

    return OfflineEmailRecognizer()


def _key_recognizer(patterns: dict[str, str]) -> EntityRecognizer:
    from presidio_analyzer import Pattern, PatternRecognizer

    patterns = [Pattern(name, expression, score=1.0) for name, expression in patterns.items()]
    return PatternRecognizer("KEY", patterns=patterns, global_regex_flags=0)  # 0: capitals matter


def _phone_checks(regions: Sequence[str]) -> dict[str, list[Callable[[str], bool]]]:
    """Return for each way to write a telephone number (a group of `_PHONE`) what says that it is one: one check for each region."""
    import phonenumbers
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    for region in regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"data.clean.mask: {region!r} is no region of telephone numbers; give two letters as in {', '.join(REGIONS)}")

    def check(region: str) -> Callable[[str], bool]:
        recognizer = PhoneRecognizer(supported_regions=(region,))

        def recognized(candidate: str) -> bool:
            try:  # presidio asks this too; asked beforehand, a wrong number costs a third to a ninth
                valid = phonenumbers.is_valid_number(phonenumbers.parse(candidate, region))
            except phonenumbers.NumberParseException:
                return False
            return valid and _recognized(recognizer, candidate) == (0, len(candidate))

        return recognized

    north_american = {region for region in regions if phonenumbers.country_code_for_region(region) == 1}
    return {
        "international": [check("ZZ")],  # ZZ: no region
        "bracketed": [check(region) for region in regions],
        "trunk": [check(region) for region in regions if region not in north_american],  # no number of theirs starts with 0
        "grouped": [check(region) for region in regions if region in north_american],  # no one else writes theirs so
    }


def _recognized(recognizer: EntityRecognizer, candidate: str) -> tuple[int, int] | None:
    """Return from where to where presidio recognizes the candidate, or None."""
    results = [result for result in recognizer.analyze(candidate, recognizer.supported_entities, None) if result.score >= LEAST_SCORE]
    longest = max(results, key=lambda result: result.end - result.start, default=None)
    return longest and (longest.start, longest.end)


def _scan(expression: re.Pattern[str], text: str, length: Callable[[re.Match[str]], int]) -> Spans:
    """Yield the matches, each cut to what `length` says of it; 0 = not this one, and the next may start within it."""
    at = 0
    while match := expression.search(text, at):
        accepted = length(match)
        at = match.start() + (accepted or 1)
        if accepted:
            yield match.start(), at


def _emails(recognizer: EntityRecognizer, text: str) -> Spans:
    for domain in _DOMAIN.finditer(text):
        before = text[max(0, domain.start() - 64) : domain.start()]  # a local part has 64 characters at most
        local_part = _LOCAL_PART.search(before)
        if local_part and (span := _recognized(recognizer, local_part[0] + domain[0])):
            start = domain.start() - len(local_part[0])
            yield start + span[0], start + span[1]


def _ibans(recognizer: EntityRecognizer, text: str) -> Spans:
    def length(match):
        candidate = match[0]
        while not (span := _recognized(recognizer, candidate)) and len(candidate) > 15:  # Norway's, the shortest
            candidate = candidate[: max(candidate.rfind(" "), candidate.rfind("-"), 0)]  # what follows may be a word in capitals
        return span[1] if span else 0

    return _scan(_IBAN, text, length)


def _cards(recognizer: EntityRecognizer, text: str) -> Spans:
    return _scan(_CARD, text, lambda match: len(match[0]) if _recognized(recognizer, match[0]) == (0, len(match[0])) else 0)


def _ips(ipv4: EntityRecognizer, any_ip: EntityRecognizer, text: str) -> Spans:
    def length(match):
        if _NOT_IPV6.fullmatch(match[0]) or _NUMBERING.search(text, max(0, match.start() - 20), match.start()):
            return 0
        span = _recognized(any_ip if ":" in match[0] else ipv4, match[0])
        return span[1] if span and span[0] == 0 else 0

    return _scan(_IP, text, length)


def _phones(forms: dict[str, list[Callable[[str], bool]]], text: str) -> Spans:
    def length(match):
        candidate, form = match[0], match.lastgroup
        least, most = (8, 16) if form == "international" or candidate.startswith("00") else (9, 12)  # 16: +44 (0)20 ...
        while (digits := sum(map(str.isdigit, candidate))) >= least:
            if digits <= most and not _DATE.search(candidate) and any(recognized(candidate) for recognized in forms[form]):
                return len(candidate)
            candidate = _LAST_GROUP.sub("", candidate)  # what follows may be another number
        return 0

    return _scan(_PHONE, text, length)


def _keys(tokens: EntityRecognizer, blocks: EntityRecognizer, values: dict[str, EntityRecognizer], text: str) -> Spans:
    for start, end, recognizer in (*_token_candidates(text, tokens), *_block_candidates(text, blocks), *_value_candidates(text, values)):
        if span := _recognized(recognizer, text[start:end]):
            yield start + span[0], start + span[1]


def _token_candidates(text, recognizer):
    for opening in _TOKEN_STARTS:
        at = text.find(opening)
        while at >= 0:
            match = _TOKEN.match(text, at)
            end = match.end() if match else at + len(opening)
            if match:
                yield at, end, recognizer
            at = text.find(opening, end)


def _block_candidates(text, recognizer):
    for opening in _BLOCK_START.finditer(text):
        end = text.find("-----END ", opening.end(), opening.start() + _BLOCK_LENGTH)
        if end >= 0:
            yield opening.start(), end + 60, recognizer


def _value_candidates(text, recognizers):
    lowered = text.replace("İ", "i").lower()  # İ is the one letter that becomes two
    for name in _SECRET_NAMES:
        at = lowered.find(name)
        while at >= 0:
            if match := _ASSIGNMENT.match(lowered, at):
                line_end = text.find("\n", match.end(), match.end() + _VALUE_LENGTH)
                yield match.end(), line_end if line_end >= 0 else match.end() + _VALUE_LENGTH, recognizers[match.lastgroup]
            at = lowered.find(name, at + len(name))
