import os
import pydoc_data.topics
import random
import socket
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from tfgpt.text.privacy import KINDS, Finding, PersonalData

RSA_KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx3Jm9Qk2b0ZsY7uT1vWdPq+/AbCdEfGhIjKlMnOpQrStUvWx\n" * 3 + "-----END RSA PRIVATE KEY-----"
ENCRYPTED_KEY = RSA_KEY.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,3F17F5316E2BAC89\n\n", 1)

# What is masked, and what stays around it. Addresses, numbers and keys are the reserved or published examples of their kind.
MASKED = [
    ("Mail joe.q+news@sub.example.co.uk.", "Mail <EMAIL>."),
    ("O'Brien <o'brien@mail.example.ie>", "O'Brien <<EMAIL>>"),
    ("jürgen@müller.de, joe@xn--mller-kva.de", "<EMAIL>, <EMAIL>"),
    ("https://example.org/?to=joe@example.com&x=1", "https://example.org/?to=<EMAIL>&x=1"),
    ("name|joe@example.com|x", "name|<EMAIL>|x"),
    ("postgres://joe:hunter2@db.example.com/x", "postgres://joe:<EMAIL>/x"),
    ("call +1 415-555-2671 now", "call <PHONE> now"),
    ("+44 20 7946 0958 or +44 (0)20 7946 0958", "<PHONE> or <PHONE>"),
    ("(415) 555-2671, 415-555-2671, 415.555.2671", "<PHONE>, <PHONE>, <PHONE>"),
    ("1-800-555-0199", "<PHONE>"),
    ("tel:+1-201-555-0123;ext=9", "tel:<PHONE>;ext=9"),
    ("Mobil: 0171 / 1234567", "Mobil: <PHONE>"),
    ("Tel. 030/123 456 78 (abends)", "Tel. <PHONE> (abends)"),
    ("01 23 45 67 89 et 01.23.45.67.89", "<PHONE> et <PHONE>"),
    ("0171 1234567 / 030 1234567", "<PHONE> / <PHONE>"),
    ("054-123-4567, (11) 91234-5678, 098765 43210", "<PHONE>, <PHONE>, <PHONE>"),
    ("0049 171 1234567", "<PHONE>"),
    ("030 1234567 2024, +1 415-555-2671 22", "<PHONE> 2024, <PHONE> 22"),
    ("Joe,+14155552671,3", "Joe,<PHONE>,3"),
    ("4111 1111 1111 1111 12/27 123", "<CARD> 12/27 123"),
    ("4111-1111-1111-1111, 4111111111111111", "<CARD>, <CARD>"),
    ("5555555555554444 6011111111111117", "<CARD> <CARD>"),
    ("3782 822463 10005, 378282246310005", "<CARD>, <CARD>"),
    ("3530111333300000, 30569309025904", "<CARD>, <CARD>"),
    ("DE89 3704 0044 0532 0130 00.", "<IBAN>."),
    ("DE89370400440532013000 2 days", "<IBAN> 2 days"),
    ("GB29 NWBK 6016 1331 9268 19, FR1420041010050500013M02606", "<IBAN>, <IBAN>"),
    ("BE71 0961 2345 6769 PAID TODAY", "<IBAN> PAID TODAY"),
    ("http://192.168.0.1:8080/x", "http://<IP>:8080/x"),
    ('if host == "127.0.0.1":', 'if host == "<IP>":'),
    ("10.0.0.0/8, 172.16.254.1.", "<IP>, <IP>."),
    ("2001:db8::8a2e:370:7334, [fe80::1%eth0], fd00::/8", "<IP>, [<IP>], <IP>"),
    ("2001:db8::1: refused; ::ffff:192.0.2.128", "<IP>: refused; <IP>"),
    ("id AKIAIOSFODNN7EXAMPLE", "id <KEY>"),
    ("git clone -c t=ghp_16C7e42F292c6912E7710c838347Ae178B4a x", "git clone -c t=<KEY> x"),
    ("github_pat_11ABCDEFG0abcdefghijkl_0123456789abcdefghij", "<KEY>"),
    ("xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOp", "<KEY>"),
    ("sk-proj-abcDEF1234567890abcDEF1234567890", "<KEY>"),
    ("sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "<KEY>"),  # in two parts, or every scanner of repositories reports it
    ("key=AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY&", "key=<KEY>&"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U.", "<KEY>."),
    (f"before\n{RSA_KEY}\nafter", "before\n<KEY>\nafter"),
    (f"before\n{ENCRYPTED_KEY}\nafter", "before\n<KEY>\nafter"),
    ('"apiKey": "a1b2c3d4e5f6g7h8",', '"apiKey": "<KEY>",'),
    ('os.environ["API_KEY"] = "a1b2c3d4e5f6g7h8"', 'os.environ["API_KEY"] = "<KEY>"'),
    ("password: s3cr3tP4ss", "password: <KEY>"),
    ('password: str = "hunter2"', 'password: str = "<KEY>"'),
    ("DB_PASSWORD=Summer2024!\nDB_HOST=db", "DB_PASSWORD=<KEY>\nDB_HOST=db"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = <KEY>"),
    ("curl -H 'Authorization: Bearer abc123def456ghi789' x", "curl -H 'Authorization: Bearer <KEY>' x"),
    ("https://example.org/?token=a1b2c3d4e5f6g7h8i9&x=1", "https://example.org/?token=<KEY>&x=1"),
]

LEFT_ALONE = [
    "version 1.2.3, 10.0.1, Python 3.11.9, foo==1.2.3.4, version 4.0.0.1",
    "#ff8800 #FFF 0xDEADBEEF 1e-10 0x1F600",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8, 550e8400-e29b-41d4-a716-446655440000",
    "2024-01-31 31.01.2024 01/31/2024 31-01-2024 2024-01-31T12:30:45.123456+01:00",
    "since 04-02-2003 20, 05/11/2011 18",
    "12:05:03.123456 05.123456 07:30-08:15 0800-1700, 0945-1830, 0630-1415",
    "1999 2001 1995-2004 1990-1999-2000",
    "ISBN 0-306-40615-2, ISBN 978-3-16-148410-0, 9783161484100",
    "a[::2] b[1::2] c[2000::2] d[::-1] x[feed::2] face::add() std::vector<int> ::close(fd) a::b ::1",
    "00:1a:2b:3c:4d:5e 1:2:3:4:5:6:7:8",
    "1234567890 4155552671 20240131123045 1612345678901 65,535 1 000 000 000",
    "4111 1111 1111 1111 4111 and 4 4111 1111 1111 1111",
    "+35236450.6 +6073641856.9 3.141592653589793 0.4111111111111111 52.520008, 13.404954 (-122.4194155)",
    "255 255 255 0 100 200 3000 415 555 2671",
    "00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15",
    "line 123456, column 42; port 8080; @@ -1,7 +1,6 @@; x = y +12345678; f(415) 555-2671",
    "VLDB J. 12(3): 211-227 (2003) 415-427, Chen (2014) 331-244",
    "1.3.6.1.4.1.311.2.1 1.2.3.4.5 256.1.1.1 192.168.1",
    "user@localhost @app.route('/x') x@w.T a @ b.c foo@2x.png joe@example.invalid",
    "def f(token: str, password=None, secret_key: bytes = b''): return tokens[0]",
    "password = getpass.getpass(); password=self.password2; secret = hashlib.sha256(x).hexdigest()",
    'password = "password"; api_key = "YOUR_API_KEY"; "token": "identifier"; token = "<your-token-1a2b3c4d>"',
    'token = "${TOKEN_1A2B3C4D5E6F}"; secret: "https://a1.example.org/b2/c3"',
    "token=${TOKEN_1A2B3C4D5E6F7A} tokenizer: gpt2-xl-v1.5b-q4k2m8 max_tokens = 2048",
    "sk-fading-circle-animation-with-2-names risk-averse-2-people-and-others",
    "-----BEGIN PRIVATE KEY-----\n... (the key in base64) ...\n-----END PRIVATE KEY-----",
    "RFC 2822 3261 5322 HTTP/1.1 ISO 8859-1 utf-8 x86_64 sha256 base64",
    "",
]

WRONG_CHECKSUMS = ["4111 1111 1111 1112", "5555555555554445", "378282246310006", "DE89 3704 0044 0532 0130 01", "GB29 NWBK 6016 1331 9268 18",
                   "+1 115-555-2671", "+44 10 7946 0958", "115-555-2671"]  # no area codes


@pytest.fixture(scope="module")
def personal():
    return PersonalData()


@pytest.mark.parametrize(("text", "masked"), MASKED)
def test_personal_data_gives_way_to_its_kind_and_the_rest_stays(personal, text, masked):
    assert personal.mask(text)[0] == masked


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_ordinary_prose_numbers_and_source_code_are_left_alone(personal, text):
    assert [text[finding.start : finding.end] for finding in personal.find(text)] == []


@pytest.mark.parametrize("text", WRONG_CHECKSUMS)
def test_a_number_with_a_wrong_checksum_or_area_is_no_finding(personal, text):
    assert personal.mask(text) == (text, Counter())


def test_pythons_reference_has_nothing_to_mask(personal):
    assert [(kind, topic[start:end]) for topic in pydoc_data.topics.topics.values() for kind, start, end in personal.find(topic)] == []


def test_findings_say_what_they_are_and_where(personal):
    text = "joe@example.com rang +1 415-555-2671 from 10.0.0.1"

    assert personal.find(text) == [Finding("email", 0, 15), Finding("phone", 21, 36), Finding("ip", 42, 50)]


def test_findings_come_in_order_and_never_overlap(personal):
    texts = [text for text, _ in MASKED]
    random.Random(5).shuffle(texts)
    text = " ".join(texts)

    findings = personal.find(text)

    assert len(findings) > len(MASKED)
    assert all(before.end <= after.start for before, after in pairwise(findings))


def test_every_kind_is_counted(personal):
    _, counts = personal.mask("\n".join(text for text, _ in MASKED))

    assert counts == sum((personal.mask(text)[1] for text, _ in MASKED), Counter())
    assert set(counts) == set(KINDS)
    assert counts == Counter({kind: sum(masked.count(f"<{kind.upper()}>") for _, masked in MASKED) for kind in KINDS})


def test_only_the_kinds_asked_for_are_masked():
    text = "joe@example.com +1 415-555-2671 10.0.0.1"

    assert PersonalData(["ip", "email"]).mask(text) == ("<EMAIL> +1 415-555-2671 <IP>", Counter(email=1, ip=1))
    assert PersonalData([]).mask(text) == (text, Counter())


def test_masking_twice_changes_nothing(personal):
    separators = ["", " ", "\n", ", ", "/", "-", ":"]
    for seed in range(40):  # neighbours of all sorts: what is masked first must not uncover something for the second time
        draw = random.Random(seed)
        text = "".join(draw.choice(MASKED)[0] + draw.choice(separators) for _ in range(8))

        masked, _ = personal.mask(text)

        assert personal.mask(masked) == (masked, Counter())


def test_what_a_finding_kept_from_being_found_is_masked_too(personal):
    assert personal.find("4 4111 1111 1111 1111") == []  # in a row of numbers

    assert personal.mask("10.0.0.1 4111 1111 1111 1111")[0] == "<IP> <CARD>"


def test_of_overlapping_findings_the_longest_stays_and_of_equal_ones_the_last_in_kinds(personal):
    assert personal.mask("415-555-2671@example.com")[0] == "<EMAIL>"
    assert personal.mask('password = "joe1@example.com"')[0] == 'password = "<KEY>"'


def test_regions_decide_on_numbers_without_a_country_code_alone():
    text = "044 668 18 00 or +41 44 668 18 01"

    assert PersonalData(["phone"], regions=["CH"]).mask(text)[0] == "<PHONE> or <PHONE>"
    assert PersonalData(["phone"], regions=["US"]).mask(text)[0] == "044 668 18 00 or <PHONE>"
    assert PersonalData(["phone"], regions=[]).mask(text)[0] == "044 668 18 00 or <PHONE>"


@pytest.mark.parametrize("around", ["\U0001f600", "\ud83d", "שלום", "مرحبا ", "日本語", "İSTANBUL ", "\x00", "\r\n", "é"])
def test_emoji_surrogates_and_other_scripts_stay_as_they_are(personal, around):
    text = f'{around} (joe@example.com) {around}\n{around} +1 415-555-2671 {around} 10.0.0.1 password="hunter2" {around}'

    masked, counts = personal.mask(text)

    assert masked == f'{around} (<EMAIL>) {around}\n{around} <PHONE> {around} <IP> password="<KEY>" {around}'
    assert counts == Counter(email=1, phone=1, ip=1, key=1)


def test_a_long_text_has_the_findings_of_its_lines(personal):
    draw = random.Random(7)
    prose = pydoc_data.topics.topics["with"].splitlines()
    lines = [draw.choice(prose) if draw.random() < 0.9 else draw.choice([text for text, _ in MASKED if "\n" not in text]) for _ in range(4000)]
    expected, start = [], 0
    for line in lines:
        expected += [Finding(kind, start + first, start + last) for kind, first, last in personal.find(line)]
        start += len(line) + 1

    found = personal.find("\n".join(lines))

    assert found == expected
    assert len(found) > 400


def test_a_finding_stays_the_same_in_the_middle_of_one_long_line(personal):
    for text, masked in MASKED:
        before, after = "word; " * 30_000, " ;word" * 30_000

        assert personal.mask(before + text + after)[0] == before + masked + after


@pytest.mark.parametrize("unit", ["a", "@", "a@", "a.b@c.", "1", "1 ", "+1 ", "::", "2001:", "f", "1.1.", "sk-", "eyJ.", "pass", "pass=", "-----BEGIN "])
def test_time_grows_no_faster_than_the_text(personal, unit):
    personal.find(unit * 50_000)  # a second or two; were one of these quadratic, minutes


def test_presidio_on_the_whole_text_finds_the_same(personal):
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer, IbanRecognizer, IpRecognizer

    draw = random.Random(11)
    words = ["The", "host", "answered", "with", "an", "odd", "code:", "café", "日本語"]  # none that makes 1.2.3.4 a version
    samples = {
        "card": (CreditCardRecognizer(), lambda: "4" + "".join(str(draw.randrange(10)) for _ in range(15))),
        "iban": (IbanRecognizer(), lambda: f"NO{draw.randrange(2, 99):02d}{draw.randrange(10**10, 10**11)}"),
        "ip": (IpRecognizer(), lambda: ".".join(str(draw.randrange(300)) for _ in range(4))),
    }
    for kind, (recognizer, sample) in samples.items():
        text = " ".join(f"{draw.choice(words)}, {sample()}" for _ in range(2000))

        whole = sorted((result.start, result.end) for result in recognizer.analyze(text, recognizer.supported_entities, None) if result.score >= 0.4)

        assert [(start, end) for found, start, end in personal.find(text) if found == kind] == whole
        assert 5 < len(whole) < 2000  # some were right, and not all


def test_nothing_is_fetched_and_no_cache_is_written(monkeypatch):
    import tldextract

    def refuse(*_, **__):
        raise AssertionError("a call that may reach for the network or for a cache")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(tldextract, "extract", refuse)  # presidio's own way, which asks the network for the newest list of suffixes
    monkeypatch.setattr(tldextract.cache.DiskCache, "get", refuse)
    monkeypatch.setattr(tldextract.cache.DiskCache, "set", refuse)

    assert PersonalData().mask("joe@example.co.uk, +44 20 7946 0958")[0] == "<EMAIL>, <PHONE>"


def test_the_log_stays_silent(caplog):
    caplog.set_level("INFO")

    PersonalData().mask("joe@example.com DE89 3704 0044 0532 0130 00")

    assert caplog.records == []


def test_importing_the_module_needs_no_presidio():
    code = "import sys, tfgpt.text.privacy; sys.exit('presidio_analyzer' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_presidio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)  # as if it were not there

    with pytest.raises(RuntimeError, match=r"data\.clean\.mask: needs the package presidio-analyzer, .*pip install 'tfgpt\[privacy\]'"):
        PersonalData()


def test_an_unknown_kind_or_region_is_refused():
    with pytest.raises(ValueError, match=r"data\.clean\.mask: 'name' is no kind .* choose from email, phone, card, iban, ip, key"):
        PersonalData(["email", "name"])
    with pytest.raises(ValueError, match=r"data\.clean\.mask: 'UK' is no region .* as in US, GB"):
        PersonalData(["phone"], regions=["UK"])


def test_masking_works_where_transformers_does_not_use_pytorch():
    code = "from tfgpt.text.privacy import PersonalData; print(PersonalData(['email']).mask('to ada@example.org'))"

    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"USE_TORCH": "0"}, capture_output=True, text=True)  # as the command has it

    assert done.returncode == 0 and "ada@" not in done.stdout, done.stderr
