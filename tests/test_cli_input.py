"""What stands on stdin, in files and among the words: text in UTF-8 whatever the locale, images, PDF, sound."""
import base64
import os
import subprocess
import sys
import tempfile

import pytest

from tests import VENDORED
from tests.beside import beside
from tests.cli import at, command, environment, finished, main, one_line, piped

pytestmark = pytest.mark.skipif(VENDORED, reason="the command line is no part of client.py")

PNG, PDF, WAV = b"\x89PNG\r\n\x1a\n\0\xff", b"%PDF-1.7\n\xff\0", b"RIFF\xff\0\0\0WAVE\0"


def content(server):
    return server.requests[0].json["messages"][0]["content"]


def kinds(parts):
    return [part["type"] for part in parts]


@pytest.mark.parametrize("data, kind", [(PNG, "image_url"), (PDF, "file"), (WAV, "input_audio")])
@pytest.mark.parametrize("words", [[], ["What is this?"]])
def test_binary_stdin_is_attached(ask, server, data, kind, words):
    """An image, PDF or sound on stdin follows the prompt, byte for byte, or stands alone."""
    server.reply("ok")
    assert ask(*words, stdin=data).code == 0
    assert kinds(content(server)) == ["text"] * len(words) + [kind]
    assert base64.b64encode(data).decode() in str(content(server)[-1])


@pytest.mark.parametrize("data, kind, at", [
    (b"PK\x03\x04\x14\0", "ZIP", 6), (b"\x1f\x8b\x08\0\xff", "of unknown type (b'", 4),
    (b"caf\xe9", "of unknown type (b'caf\\xe9')", 4), (b"\x80\x81", "of unknown type", 1)])
def test_other_binaries_are_refused(ask, server, data, kind, at):
    """Exit 1, one line that tells what it is and what is taken; nothing is sent, for a model would be told another."""
    code, out, err = ask("What is this?", stdin=data)
    assert (code, out, server.requests) == (1, "", [])
    assert one_line(err) and err.startswith(f"llmlite: stdin is {kind}")
    assert f": byte {at} is no text in UTF-8 (models take text in UTF-8, PNG" in err


@pytest.mark.parametrize("data, text", [
    ("\ufeffcaf\u00e9\n".encode(), "caf\u00e9"),
    (b"\x1b[1mred\x1b[0m\x08", "\x1b[1mred\x1b[0m\x08"),
    (b"BMW and GIFs", "BMW and GIFs"), (b"<svg></svg>", "<svg></svg>")])
def test_text_on_stdin(ask, server, data, text):
    """Text is UTF-8 whatever the encoding of stdin, without its byte order mark; colours go along."""
    server.reply("ok")
    assert ask(stdin=data).code == 0
    assert content(server) == text


def test_documents(ask, server, tmp_path):
    """-f attaches PDF and sound too, after the text, in their order; a URL goes as it is."""
    for name, data in (("a.bin", PDF), ("b.bin", WAV)):
        (tmp_path / name).write_bytes(data)
    server.reply("ok")
    assert ask("Compare", "-f", str(tmp_path / "a.bin"), "-f", "https://example.com/photo.png", "-f",
               str(tmp_path / "b.bin")).code == 0
    first, *rest = content(server)
    assert first["text"] == "Compare" and kinds(rest) == ["file", "image_url", "input_audio"]
    assert rest[1]["image_url"]["url"] == "https://example.com/photo.png"


def test_an_image_alone(ask, server, tmp_path):
    """It is enough to ask with: no empty text goes along."""
    (tmp_path / "photo").write_bytes(PNG)
    server.reply("ok")
    assert ask("-f", str(tmp_path / "photo")).code == 0
    assert kinds(content(server)) == ["image_url"]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere words are no bytes")
@pytest.mark.parametrize("locale", [
    {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}])
@beside
def test_utf_8_whatever_the_locale(server, locale):
    """Words, names of files, stdin and stdout are UTF-8; a byte of a word that is none is replaced."""
    server.reply("\u00fc\u20ac\U0001f642")
    words = [*command(*at(server)), "caf\u00e9\u20ac".encode() + b"\xff", "-s", "Sei k\u00fcrzer", "-o", "user=\u00e9"]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/\u00e9".encode()
        with open(file, "w", encoding="utf-8") as opened:
            opened.write("text")
        done = subprocess.run([*words, "-f", file], input="\u00e4".encode(), capture_output=True,
                              env=environment(**locale), timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\u00fc\u20ac\U0001f642\n".encode(), b"")
    sent = server.requests[0].json
    assert [message["content"] for message in sent["messages"]] == [
        "Sei k\u00fcrzer", f"{folder}/\u00e9:\n\ntext\n\ncaf\u00e9\u20ac\ufffd\n\n\u00e4"]
    assert sent["user"] == "\u00e9"


@beside
def test_errors_are_utf_8_too():
    """So is stderr."""
    assert "caf\u00e9" in finished("-p", "caf\u00e9", "-m", "x", "Hi", PYTHONIOENCODING="ascii").err


def test_a_stdin_that_is_half_read(server, monkeypatch):
    """A program that has read of its stdin before it calls main() is none the worse."""
    server.reply("ok")
    stdin = piped(b"one\ntwo\n")
    stdin.readline()
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["Hi", *at(server)]) == 0


def test_a_programs_own_words(ask, server, monkeypatch):
    """Words that the file system's encoding cannot hold, as main([...]) may get them, stay as they are."""
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode("latin-1"))
    server.reply("ok")
    assert ask("1 \u20ac").code == 0 and content(server) == "1 \u20ac"
