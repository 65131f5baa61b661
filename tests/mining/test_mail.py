"""Mailboxes as documents: what was written, without quotes and signatures."""

import gzip
import mailbox
import tracemalloc
from collections import Counter
from email.message import EmailMessage

import pytest

from cptk.mining.mail import read_mail

BODY = """Half an hour is enough.

On Monday, Ann <ann@b.example>
wrote:
> How long?
> > Nobody knows.

From then on it rests.
--\x20
Bob
"""
WRITTEN = "Half an hour is enough.\n\nFrom then on it rests.\n"


def message(body=BODY, subject="Re: AW: Bread", name="<1@b.example>", **options):
    found = EmailMessage()
    found["Subject"], found["Message-ID"], found["From"] = subject, name, "bob@b.example"
    found.set_content(body, **options)
    return found


def mbox_of(place, *messages):
    """As Python's own library writes it."""
    box = mailbox.mbox(place)
    for each in messages:
        box.add(each)
    box.close()
    return place


def test_what_was_written_is_kept(tmp_path):
    place = mbox_of(tmp_path / "list.mbox", message(), message("Naïve ideas.", cte="base64"))
    counts = Counter()
    first, second = read_mail(place, counts=counts)
    assert first == ("1@b.example", WRITTEN, "list.mbox", "", "Bread")
    assert second.text == "Naïve ideas.\n"
    assert counts == {"messages": 2}


def test_packed_ones_and_maildirs_say_the_same(tmp_path):
    place = mbox_of(tmp_path / "list.mbox", message())
    packed = tmp_path / "list.mbox.gz"
    packed.write_bytes(gzip.compress(place.read_bytes()))
    box = mailbox.Maildir(tmp_path / "mail")
    box.add(message())
    for each in (packed, tmp_path / "mail"):
        assert [found[1] for found in read_mail(each)] == [WRITTEN]
        assert [found[4] for found in read_mail(each)] == ["Bread"]


def test_html_beside_plain_text_is_passed_over(tmp_path):
    both = message("Plain words.\n")
    both.add_alternative("<p>Marked words.</p>", subtype="html")
    only = EmailMessage()
    only.set_content("<p>Marked words.</p>", subtype="html")
    counts = Counter()
    place = mbox_of(tmp_path / "list.mbox", both, only)
    assert [each.text for each in read_mail(place, counts=counts)] == ["Plain words.\n"]
    assert counts == {"messages": 1, "no plain text": 1}


def test_what_falls_is_counted_and_the_rest_is_read(tmp_path):
    wrong = (
        b'Content-Type: text/plain; charset="utf-8"\nContent-Transfer-Encoding: 8bit\n\n\xff\xfe\n'
    )
    unknown = b'Content-Type: text/plain; charset="x-none"\n\nWords.\n'
    large = b"Subject: x\n\n" + b"a" * 200_000 + b"\nFrom here on it is long\n"
    texts = [wrong, unknown, large, b"Subject: x\n\n> quoted\n", b"Subject: x\n\na\0b\n"]
    texts += [b"Subject: ok\n\nWords.\n"]
    place = tmp_path / "list.mbox"
    place.write_bytes(b"".join(b"From a@b.example\n" + each + b"\n" for each in texts))
    counts = Counter()
    (found,) = read_mail(place, largest=1000, counts=counts)
    assert (found.path, found.text, found.title) == ("6", "Words.\n", "ok")
    expected = {"messages": 1, "wrong encoding": 2, "too large": 1, "empty": 1, "binary": 1}
    assert counts == expected


def test_no_more_of_a_message_is_held_than_is_taken(tmp_path):
    place = tmp_path / "list.mbox"
    line = b"a" * 1000 + b"\n"
    place.write_bytes(b"From a@b.example\n\n" + line * 10_000 + b"\nFrom b\n\nWords.\n")
    tracemalloc.start()
    texts = [each.text for each in read_mail(place, largest=1000)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert texts == ["Words.\n"]
    assert peak < 2_000_000  # of ten million bytes


def test_signed_messages(tmp_path):
    signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nWords.\n"
    signed += "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
    (found,) = read_mail(mbox_of(tmp_path / "list.mbox", message(signed)))
    assert found.text == "Words.\n"


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        read_mail(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="cur and new"):
        read_mail(tmp_path)
    (tmp_path / "other.txt").write_text("words")
    with pytest.raises(ValueError, match="begins with 'From '"):
        read_mail(tmp_path / "other.txt")
    place = mbox_of(tmp_path / "list.mbox", *(message(f"{number} " * 2000) for number in range(9)))
    packed = tmp_path / "list.mbox.gz"
    packed.write_bytes(gzip.compress(place.read_bytes(), mtime=0)[:-200])
    with pytest.raises(ValueError, match="cut short"):
        list(read_mail(packed))
