"""Files in messages, files that models make, and what they cite: each provider's own words for them."""
import base64
import contextlib
import copy
import io
import pathlib
import pickle
import time
import urllib.parse

import pytest

from tests import llmlite
from tests.dialects import KEY, drained
from tests.dialects.anthropic import block as anthropic_block
from tests.dialects.anthropic import body as anthropic_body
from tests.dialects.gemini import body as gemini_body
from tests.dialects.gemini import piece
from tests.dialects.responses import body as items_body
from tests.dialects.responses import end, event, start

PDF, PNG = b"%PDF-1.7\n\xff", b"\x89PNG\r\n\x1a\n"
WAV, MP3 = b"RIFF\0\0\0\0WAVEfmt ", b"ID3\x04\0"
TEXT = "caf\u00e9\n"
URL = "https://x.example/a.pdf?c"


def coded(data):
    return base64.b64encode(data).decode()


def uri(kind, data):
    return f"data:{kind};base64,{coded(data)}"


def client(server, provider, **options):
    base = {"anthropic": server.root, "gemini": server.root + "/v1beta"}.get(provider, server.url)
    return llmlite.Client("m", provider=provider, base_url=base, api_key=KEY, retry=None, **options)


def parts(request):
    """The parts of a request's last message, in whichever dialect."""
    last = (request.get("messages") or request.get("input") or request.get("contents"))[-1]
    return last.get("content") or last["parts"]


WIRES = {"chat": ("openai", "chat"), "responses": ("openai", "responses"), "anthropic": ("anthropic", "auto"),
         "gemini": ("gemini", "auto")}


def inline(kind, data):
    return {"inlineData": {"mimeType": kind, "data": coded(data)}}


def document(**source):
    return {"type": "document", "source": source}


def pdf_file(type_="file", **more):
    data = {"filename": "file.pdf", "file_data": uri("application/pdf", PDF)}
    return {"type": type_, "file": data} if type_ == "file" else {"type": type_, **data}


IMAGE = {"type": "base64", "media_type": "image/png", "data": coded(PNG)}
SENT = {  # (what, wire) -> the part that goes out after the text
    ("pdf", "chat"): pdf_file(),
    ("pdf", "responses"): pdf_file("input_file"),
    ("pdf", "anthropic"): document(type="base64", media_type="application/pdf", data=coded(PDF)),
    ("pdf", "gemini"): inline("application/pdf", PDF),
    ("text", "chat"): {"type": "text", "text": TEXT},
    ("text", "responses"): {"type": "input_file", "filename": "file.txt",
                            "file_data": uri("text/plain", TEXT.encode())},
    ("text", "anthropic"): document(type="text", media_type="text/plain", data=TEXT),
    ("text", "gemini"): inline("text/plain", TEXT.encode()),
    ("image", "chat"): {"type": "image_url", "image_url": {"url": uri("image/png", PNG)}},
    ("image", "responses"): {"type": "input_image", "image_url": uri("image/png", PNG)},
    ("image", "anthropic"): {"type": "image", "source": IMAGE},
    ("image", "gemini"): inline("image/png", PNG),
    ("wav", "chat"): {"type": "input_audio", "input_audio": {"data": coded(WAV), "format": "wav"}},
    ("wav", "gemini"): inline("audio/wav", WAV),
    ("mp3", "chat"): {"type": "input_audio", "input_audio": {"data": coded(MP3), "format": "mp3"}},
    ("mp3", "gemini"): inline("audio/mp3", MP3),
    ("url", "responses"): {"type": "input_file", "file_url": URL},
    ("url", "anthropic"): document(type="url", url=URL),
    ("url", "gemini"): {"fileData": {"fileUri": URL, "mimeType": "application/pdf"}},
    ("image-url", "chat"): {"type": "image_url", "image_url": {"url": "https://x.example/A.PNG"}},
    ("image-url", "responses"): {"type": "input_image", "image_url": "https://x.example/A.PNG"},
    ("image-url", "anthropic"): {"type": "image", "source": {"type": "url", "url": "https://x.example/A.PNG"}},
    ("image-url", "gemini"): {"fileData": {"fileUri": "https://x.example/A.PNG", "mimeType": "image/png"}},
    ("audio-url", "gemini"): {"fileData": {"fileUri": "https://x.example/a.wav", "mimeType": "audio/x-wav"}},
}
GIVEN = {"pdf": PDF, "text": TEXT.encode(), "image": PNG, "wav": WAV, "mp3": MP3, "url": URL,
         "image-url": "https://x.example/A.PNG", "audio-url": "https://x.example/a.wav"}
REFUSED = {
    "audio-url": {"chat": "documents by URL", "responses": "audio", "anthropic": "audio"},
    "wav": {"responses": "audio", "anthropic": "audio"}, "mp3": {"responses": "audio", "anthropic": "audio"},
    "url": {"chat": "documents by URL"}}


@pytest.mark.parametrize("what, wire", SENT, ids="-".join)
def test_each_dialect_has_its_own_part(server, what, wire):
    """One file or several, by bytes or by URL, in the order in which they are given."""
    provider, api = WIRES[wire]
    server.reply("ok", times=2)
    with client(server, provider, api=api) as llm:
        llm.chat([llmlite.user("look", files=GIVEN[what])])
        drained(llm.stream([llmlite.user("look", files=(GIVEN[what], GIVEN[what]))]))
    one, two = (parts(request.json) for request in server.requests)
    expected = SENT[what, wire]
    if what == "audio-url":  # which systems name in their own ways
        expected["fileData"]["mimeType"] = one[1]["fileData"]["mimeType"]
        assert expected["fileData"]["mimeType"] in ("audio/x-wav", "audio/wav", "audio/vnd.wave")
    assert one[1:] == [expected] and two[1:] == [expected] * 2


@pytest.mark.parametrize("what, wire, kind", [
    (what, wire, kind) for what, wires in REFUSED.items() for wire, kind in wires.items()])
def test_what_a_dialect_does_not_take(server, what, wire, kind):
    """It is said before anything is sent: what, who, what it takes, who takes such."""
    provider, api = WIRES[wire]
    speech = {"chat": "chat completions", "responses": "Responses", "anthropic": "Anthropic"}[wire]
    with client(server, provider, api=api) as llm, pytest.raises(llmlite.ConfigurationError) as caught:
        llm.chat([llmlite.user("look", files=[GIVEN[what]])])
    line = str(caught.value)
    assert f"a message to {speech} cannot hold {kind}: it takes images, PDF" in line and "\n" not in line
    assert "and Gemini take" in line and server.requests == []


@pytest.mark.parametrize("size, fits", [(40 << 20, False), (20 << 20, True)])
def test_a_request_over_anthropics_limit(server, size, fits):
    """32 MiB, in base64: a PDF of 40 MiB is refused here, one of 20 goes out."""
    server.reply("ok")
    with client(server, "anthropic") as llm:
        message = llmlite.user("read", files=b"%PDF" + bytes(size))
        if fits:
            assert llm.chat([message]).text == "ok"
        else:
            words = r"^a request of 53 MiB: anthropic takes 32 MiB \(.*URL"
            with pytest.raises(llmlite.ConfigurationError, match=words):
                llm.chat([message])
    assert len(server.requests) == fits


def test_paths_have_names(server, tmp_path):
    """A file's name goes with it where there is a place for one; a text's kind is told by its name."""
    for name, data in (("a.pdf", PDF), ("b.csv", b"a,b\n"), ("c.py", b"pass\n"), ("d.png", WAV), ("e.bin", PNG),
                       ("f.txt", b"f")):
        (tmp_path / name).write_bytes(data)
    given = [tmp_path / "a.pdf", str(tmp_path / "b.csv"), tmp_path / "d.png", pathlib.PurePath(tmp_path / "e.bin")]
    server.reply("ok", times=4)
    with client(server, "openai", api="chat") as chat, client(server, "gemini") as gemini:
        chat.chat([llmlite.user("look", files=given)])
        gemini.chat([llmlite.user("look", files=given)])
        chat.chat([llmlite.user("look", files=str(tmp_path / "c.py"), images=str(tmp_path / "e.bin"))])
        with client(server, "anthropic") as anthropic:
            anthropic.chat([llmlite.user("look", files=[tmp_path / "a.pdf", tmp_path / "f.txt"])])
    first, second, third, fourth = (parts(request.json) for request in server.requests)
    assert first[1:] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": uri("application/pdf", PDF)}},
        {"type": "text", "text": "b.csv:\n\na,b\n"}, SENT["wav", "chat"], SENT["image", "chat"]]
    assert second[1:] == [inline("application/pdf", PDF), inline("text/csv", b"a,b\n"), inline("audio/wav", WAV),
                          inline("image/png", PNG)]
    assert third[1:] == [SENT["image", "chat"], {"type": "text", "text": "c.py:\n\npass\n"}]
    assert [part["title"] for part in fourth[1:]] == ["a.pdf", "f.txt"]


def test_one_or_several():
    """A single image or file needs no list; of a generator each is one; none at all leaves a plain message."""
    image = llmlite.user("look", images=PNG)
    assert image == llmlite.user("look", images=[PNG]) == llmlite.user("look", files=bytearray(PNG))
    assert llmlite.user("look", files=(each for each in (PNG, PNG)))["content"] == [
        *image["content"], image["content"][1]]
    assert llmlite.user("hi", images=None, files=[]) == {"role": "user", "content": "hi"}
    assert llmlite.user("hi", files=io.BytesIO(b"line\nline\n")) == llmlite.user("hi", files=b"line\nline\n")
    assert llmlite.user("hi", files=io.StringIO("line\nline\n")) == llmlite.user("hi", files=b"line\nline\n")


@pytest.mark.parametrize("given", [
    uri("application/pdf", PDF), uri("application/pdf", PDF).upper().replace(coded(PDF).upper(), coded(PDF)),
    "data:application/pdf;base64," + base64.urlsafe_b64encode(PDF).decode().rstrip("="),
    "data:application/pdf;x=y;base64," + urllib.parse.quote(coded(PDF), safe=""),
    "data:application/pdf," + urllib.parse.quote(PDF)])
def test_data_uris_of_every_form(given):
    assert llmlite.user("hi", files=given) == llmlite.user("hi", files=PDF)


@pytest.mark.parametrize("given, words", [
    (b"", "^file is empty: models take PDF, text in UTF-8, images"), (b"PK\3\4\0", "^file is ZIP: models"),
    (b"a\0b", r"^file is of unknown type \(.*\): models"), (b"\xff\xfea\0", "^file is of unknown type"),
    ("nowhere.pdf", "^file 'nowhere.pdf': No such file or directory: give a path, a URL or bytes$"),
    (5, "^file is a int: give a path, a URL or bytes$"), ([None], "^file is a NoneType: give a path"),
    ("data:text/plain;base64,a", "^file is a data URI whose base64 cannot be read$"),
    ("data:text/plain;base64,", "^file is empty"), ("data:text", "^file 'data:text': No such")])
def test_what_is_no_file(given, words):
    """One line that says which file, and what would do."""
    with pytest.raises(llmlite.ConfigurationError, match=words) as caught:
        llmlite.user("look", files=given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [
    b"BM is no image", b"<!doctype html><p>", b"<svg></svg>", b"\xef\xbb\xbfmarked", b"ID3 is no tune", b"\x1b[1m"])
def test_text_is_text_whatever_it_begins_with(data):
    part = llmlite.user("look", files=data)["content"][1]
    assert part["file"]["file_data"] == uri("text/plain", data.replace(b"\xef\xbb\xbf", b""))


@pytest.mark.parametrize("wire, file, sent", [
    ("anthropic", {"file_id": "f1"}, document(type="file", file_id="f1")),
    ("anthropic", {"file_data": uri("application/pdf", PDF), "title": "T", "context": "C", "cache_control": {"a": 1},
                   "citations": {"enabled": True}},
     {**document(type="base64", media_type="application/pdf", data=coded(PDF)), "title": "T", "context": "C",
      "cache_control": {"a": 1}, "citations": {"enabled": True}}),
    ("responses", {"file_id": "f1"}, {"type": "input_file", "file_id": "f1"}),
    ("responses", {"file_data": uri("application/vnd.ms-excel", b"x"), "filename": "a.xls"},
     {"type": "input_file", "file_data": uri("application/vnd.ms-excel", b"x"), "filename": "a.xls"}),
    ("responses", {"file_data": uri("image/png", PNG)}, SENT["image", "responses"]),
    ("chat", {"file_id": "f1"}, {"type": "file", "file": {"file_id": "f1"}}),
    ("chat", {"file_url": "https://x.example/a.png"}, {"type": "image_url", "image_url": {
        "url": "https://x.example/a.png"}}),
    ("chat", {"file_data": "data:audio/x-wav;base64," + coded(WAV)}, SENT["wav", "chat"]),
    ("anthropic", {"file_id": "f1", "filename": "a.csv"}, {**document(type="file", file_id="f1"), "title": "a.csv"}),
    ("anthropic", {"file_data": uri("application/pdf", PDF), "filename": "a.pdf", "title": "T"},
     {**document(type="base64", media_type="application/pdf", data=coded(PDF)), "title": "T"}),
    ("anthropic", {"file_data": "data:text/plain,hello%20you"}, document(
        type="text", media_type="text/plain", data="hello you")),
    ("anthropic", {"file_data": "data:text/plain;charset=iso-8859-1;base64," + coded(b"caf\xe9")}, document(
        type="text", media_type="text/plain", data="caf\u00e9")),
    ("responses", {"file_id": "f1", "filename": "a.png"}, {"type": "input_image", "file_id": "f1"}),
    ("responses", {"file_data": URL}, {"type": "input_file", "file_url": URL}),
    ("gemini", {"file_data": "data:,hello%20you"}, inline("text/plain", b"hello you")),
    ("chat", {"file_data": uri("image/png", PNG), "filename": "a.png"}, SENT["image", "chat"]),
    ("chat", {"file_data": uri("audio/mpeg", MP3)}, SENT["mp3", "chat"]),
    ("chat", {"url": uri("image/png", PNG)}, SENT["image", "chat"]),
    ("responses", {"url": uri("image/png", PNG)}, SENT["image", "responses"]),
    ("chat", {"file_data": coded(PDF), "filename": "a.pdf"}, {"type": "file", "file": {
        "file_data": coded(PDF), "filename": "a.pdf"}}),
    ("chat", {"file_data": uri("APPLICATION/PDF", PDF)}, {"type": "file", "file": {
        "file_data": uri("APPLICATION/PDF", PDF)}}),
    ("anthropic", {"file_data": coded(PDF)}, document(type="base64", media_type="application/pdf", data=coded(PDF))),
    ("anthropic", {"file_data": "DATA:Image/PNG;BASE64," + coded(PNG)}, SENT["image", "anthropic"]),
    ("gemini", {"file_data": coded(PDF), "filename": "a.pdf"}, inline("application/pdf", PDF)),
    ("gemini", {"file_id": "https://g.example/files/1"},
     {"fileData": {"fileUri": "https://g.example/files/1", "mimeType": "application/pdf"}}),
    ("gemini", {"file_data": "data:text/x-own;charset=utf-8;base64,YQ=="}, inline("text/x-own", b"a")),
    ("gemini", {"file_data": "data:;base64,YQ==", "filename": "a.mp3"}, inline("audio/mpeg", b"a"))])
def test_parts_by_hand(server, wire, file, sent):
    """Ids of uploaded files, other kinds, and what Anthropic says of a document besides."""
    provider, api = WIRES[wire]
    server.reply("ok")
    with client(server, provider, api=api) as llm:
        llm.chat([{"role": "user", "content": [{"type": "file", "file": file}]}])
    assert parts(server.requests[0].json) == [sent]


@pytest.mark.parametrize("provider, content", [
    ("llamacpp", {"type": "input_text", "text": TEXT}),
    ("ollama", {"type": "input_text", "text": TEXT})])
def test_responses_of_servers_that_take_no_files(server, provider, content):
    """There a text is text, and a PDF is refused here."""
    server.reply("ok")
    with client(server, provider, api="responses") as llm:
        llm.chat([llmlite.user("look", files=TEXT.encode())])
        with pytest.raises(llmlite.ConfigurationError, match="to Responses cannot hold PDF: it takes images"):
            llm.chat([llmlite.user("look", files=PDF)])
    assert [parts(request.json)[1] for request in server.requests] == [content]


@pytest.mark.parametrize("provider, sent", [
    ("openrouter", {"type": "file", "file": {"file_data": URL}}), ("together", None), ("openai", None)])
def test_documents_by_url_in_chats(server, provider, sent):
    """OpenRouter fetches them; elsewhere they are refused here."""
    server.reply("ok")
    with client(server, provider, api="chat") as llm:
        if sent is None:
            with pytest.raises(llmlite.ConfigurationError, match="cannot hold documents by URL"):
                llm.chat([llmlite.user("look", files=URL)])
        else:
            llm.chat([llmlite.user("look", files=URL)])
            assert parts(server.requests[0].json)[1] == sent


@pytest.mark.parametrize("provider, passes", [("together", True), ("openai", False)])
def test_other_kinds_in_chats(server, provider, passes):
    """A compatible server is asked, for who knows what it takes; OpenAI takes PDF alone."""
    server.reply("ok")
    part = {"type": "file", "file": {"filename": "a.xls", "file_data": uri("application/vnd.ms-excel", b"x")}}
    with client(server, provider, api="chat") as llm:
        if passes:
            llm.chat([{"role": "user", "content": [part]}])
            assert parts(server.requests[0].json) == [part]
        else:
            with pytest.raises(llmlite.ConfigurationError, match=r"other files: .*\(Responses and Gemini take"):
                llm.chat([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("url", ["http://[bad/a.pdf", "https://x.example/a.pdf?b=http://[", "http://[bad"])
@pytest.mark.parametrize("wire", WIRES)
def test_urls_that_are_none(server, url, wire):
    """They go out, or are refused with a ConfigurationError: whoever fetches them judges."""
    provider, api = WIRES[wire]
    server.reply("ok", times=None)
    with client(server, provider, api=api) as llm:
        llm.chat([llmlite.user("look", images=url)])
        for part in (llmlite.user("look", files=url)["content"][1], {"type": "file", "file": {"file_url": url}}):
            with contextlib.suppress(llmlite.ConfigurationError):
                llm.chat([{"role": "user", "content": [part]}])


ODD = [None, 5, [], {}, "", "data:", "data:,", "data:image/png;base64,", "data:image/png;base64,\udce9", "\x00",
       [PNG.hex()], {"url": 5}, {"file_data": []}, {"data": 5, "format": []}, {"file_id": {}}]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["file", "input_audio", "image_url"])
def test_parts_of_wrong_types(server, wire, kind):
    """They go out as they are, or are refused with a ConfigurationError; nothing is sent that says null for them."""
    provider, api = WIRES[wire]
    server.reply("ok", times=None)
    inner = [*ODD, *({name: odd} for name in ("url", "file_data", "file_url", "file_id", "filename", "data", "format")
                     for odd in ODD)]
    with client(server, provider, api=api) as llm:
        for odd in inner:
            with contextlib.suppress(llmlite.ConfigurationError):
                assert llm.chat([{"role": "user", "content": [{"type": kind, kind: odd}]}]).text == "ok"
    assert any(b"null" not in request.body for request in server.requests)
    for word in (b'"file_id":null', b'"fileUri":null', b'"url":""', b'"image_url":""', b'"data":""'):
        assert not [request.body for request in server.requests if word in request.body], word


def test_a_text_whose_base64_is_broken(server):
    """Nothing empty is sent in its place."""
    part = {"type": "file", "file": {"file_data": "data:text/plain;base64,%%%"}}
    for provider in ("openai", "anthropic"):
        with client(server, provider, api="chat") as llm, pytest.raises(llmlite.ConfigurationError, match="base64"):
            llm.chat([{"role": "user", "content": [part]}])
    assert server.requests == []


def test_files_in_a_system_prompt_of_anthropic(server):
    server.reply("ok")
    with client(server, "anthropic") as llm:
        llm.chat("hi", system=llmlite.user("Know this", files=PDF)["content"])
    assert server.requests[0].json["system"] == [{"type": "text", "text": "Know this"}, SENT["pdf", "anthropic"]]


def test_files_as_results_of_tools(server):
    """Anthropic and Responses take them there; Gemini beside the result."""
    result = {"role": "tool", "tool_call_id": "c1", "content": llmlite.user("seen", files=[PNG, PDF])["content"]}
    server.reply("ok", times=2)
    with client(server, "anthropic") as llm, client(server, "openai", api="responses") as items:
        llm.chat([result])
        items.chat([result])
    first, second = (request.json for request in server.requests)
    assert first["messages"][0]["content"][0]["content"][1:] == [SENT["image", "anthropic"], SENT["pdf", "anthropic"]]
    assert second["input"][0]["output"][1:] == [SENT["image", "responses"], SENT["pdf", "responses"]]
    server.reply("ok")
    with client(server, "gemini") as llm:
        llm.chat([result])
    assert server.requests[2].json["contents"][0]["parts"] == [
        {"functionResponse": {"response": {"output": "seen"}}}, SENT["image", "gemini"], SENT["pdf", "gemini"]]


@pytest.mark.parametrize("rest, output", [
    ([{"type": "text", "text": "1"}, {"type": "text", "text": "2"}], "12"), ([], ""),
    ([{"type": "json", "json": {"a": 1}}], [{"type": "json", "json": {"a": 1}}])])
def test_what_stands_beside_a_file_in_a_result(server, rest, output):
    """It is Gemini's output as it was; the files of all results follow them."""
    image = {"type": "image_url", "image_url": {"url": uri("image/png", PNG)}}
    results = [{"role": "tool", "tool_call_id": id, "name": id, "content": [*rest, image]} for id in ("c1", "c2")]
    server.reply("ok")
    with client(server, "gemini") as llm:
        llm.chat(results)
    assert server.requests[0].json["contents"][0]["parts"] == [
        *({"functionResponse": {"name": name, "response": {"output": output}}} for name in ("c1", "c2")),
        SENT["image", "gemini"], SENT["image", "gemini"]]


def test_thoughts_and_custom_calls_of_another_dialect(server):
    """Mistral's thoughts stay where they are; a call of a custom tool keeps its name everywhere."""
    call = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "So"}], "tool_calls": [call]},
        llmlite.tool_result("c1", "a.txt")]
    server.reply("ok", times=2)
    with client(server, "openai", api="responses") as llm:
        llm.chat(history)
    with client(server, "gemini") as llm:
        llm.chat([history[0], {**history[1], "content": "So"}, history[2]])
    with client(server, "anthropic") as llm:
        server.reply("ok")
        llm.chat([history[0], {**history[1], "content": "So"}, history[2]])
    items, gemini, anthropic = (request.json for request in server.requests)
    assert items["input"][1] == {"type": "message", "role": "assistant", "content": [
        {"type": "output_text", "text": "So"}]}
    assert gemini["contents"][1]["parts"][1] == {"functionCall": {"name": "shell", "args": {"input": "ls"}}}
    assert anthropic["messages"][1]["content"][1] == {"type": "tool_use", "id": "c1", "name": "shell",
                                                     "input": {"input": "ls"}}


# ------------------------------------------------------------------------------------------------ what a model has made

MADE = [llmlite.File("image/png", PNG)]


def both(llm):
    return llm.chat("draw"), drained(llm.stream("draw"))


def chat_image(**choice):
    image = {"type": "image_url", "image_url": {"url": uri("image/png", PNG)}}
    return {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", **choice}]}, image


def test_images_of_openrouter(server):
    whole, image = chat_image()
    whole["choices"][0]["message"] = {"role": "assistant", "content": "", "images": [image]}
    piece_, _ = chat_image(finish_reason=None, delta={"images": [image]})
    last, _ = chat_image(delta={"content": ""})
    server.json(whole)
    server.sse([piece_, last, "[DONE]"])
    with client(server, "openrouter") as llm:
        whole, streamed = both(llm)
    assert whole.files == streamed.files == MADE and whole.text == streamed.text == ""


def test_images_of_gemini(server):
    """Those of its thoughts are drafts, and stay in `raw`."""
    drawn = {**inline("image/png", PNG), "thoughtSignature": "S"}
    draft = {**inline("image/png", b"draft"), "thought": True}
    server.json(gemini_body(draft, {"text": "There"}, drawn))
    server.sse([piece(draft), piece({"text": "There"}), gemini_body(drawn)])
    with client(server, "gemini") as llm:
        whole, streamed = both(llm)
        assert whole.files == streamed.files == MADE and whole.text == streamed.text == "There"
        server.reply("ok")
        llm.chat([{"role": "user", "content": "draw"}, whole.message, {"role": "user", "content": "bluer"}])
    assert drawn in server.requests[-1].json["contents"][1]["parts"]


@pytest.mark.parametrize("said, kind", [({"output_format": "webp"}, "image/webp"), ({}, "image/png")])
def test_images_of_responses(server, said, kind):
    """Whatever form of base64 they are in."""
    item = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": coded(PNG), **said}
    server.json(items_body(item))
    server.sse([*start(), event("response.output_item.added", output_index=0, item={**item, "result": None}),
                event("response.image_generation_call.partial_image", output_index=0, item_id="ig_1",
                      partial_image_b64=coded(b"half")),
                event("response.output_item.done", output_index=0, item=item), *end(item)])
    with client(server, "openai", api="responses") as llm:
        whole, streamed = both(llm)
    assert whole.files == streamed.files == [llmlite.File(kind, PNG)]
    assert whole.message["llmlite"]["openai-responses"]["output"][0]["result"] == coded(PNG)


def test_an_image_alone_is_no_empty_answer(server):
    server.json(gemini_body(inline("image/png", PNG)))
    with llmlite.Client("m", provider="gemini", base_url=server.root + "/v1beta", api_key=KEY,
                        retry=llmlite.RetryPolicy(retry_empty=True)) as llm:
        assert llm.chat("draw").files == MADE and llm.ledger.empty == 0


@pytest.mark.parametrize("data", ["iVBORw0KGgo", "iVBO\nRw0KGgo=", "iVBORw0KGgo%3D"])
def test_base64_of_other_forms(server, data):
    server.json(gemini_body({"inlineData": {"mimeType": "image/png", "data": data}}))
    with client(server, "gemini") as llm:
        assert llm.chat("draw").files == MADE


@pytest.mark.parametrize("data", [None, "", "%%%", 5, "a", "\u00e9", ["x"], {"a": 1}])
def test_what_is_no_base64(server, data):
    """No file is made of it; it is in `raw`."""
    server.json(gemini_body({"inlineData": {"mimeType": "image/png", "data": data}}, {"text": "a"}))
    with client(server, "gemini") as llm:
        reply = llm.chat("draw")
    assert reply.files == [] and reply.text == "a"


def test_padding_alone_costs_no_more_than_reading_it(server):
    """A server that sends what looks like base64 without end holds nobody up."""
    server.json(gemini_body({"inlineData": {"mimeType": "image/png", "data": "=" * 1_000_000 + "x"}}))
    with client(server, "gemini") as llm:
        started = time.process_time()
        assert llm.chat("draw").files == [] and time.process_time() - started < 5


def test_a_file_saves_and_copies(tmp_path):
    file = MADE[0]
    file.save(tmp_path / "a.png")
    file.save(str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() == PNG
    assert pickle.loads(pickle.dumps(file)) == copy.deepcopy(file) == file == ("image/png", PNG)
    assert repr(file) == "<File image/png, 8 bytes>"


def test_citations_of_anthropic(server):
    """They are those of all blocks, in a body and in a stream, and go back with the text they are of."""
    cited = {"type": "page_location", "cited_text": "Blue.", "document_index": 0, "document_title": "a.pdf",
             "file_id": None, "start_page_number": 1, "end_page_number": 2}
    text = {"type": "text", "text": "It is blue", "citations": [cited]}
    server.json(anthropic_body(text))
    server.sse([
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": []}},
        *anthropic_block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "It is blue"},
                         {"type": "citations_delta", "citation": cited}),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}])
    document_ = llmlite.user("What colour?", files=PDF)
    document_["content"][1]["file"]["citations"] = {"enabled": True}
    with client(server, "anthropic") as llm:
        whole, streamed = llm.chat([document_]), drained(llm.stream([document_]))
        server.reply("ok")
        llm.chat([document_, streamed.message, {"role": "user", "content": "Sure?"}])
    assert whole.citations == streamed.citations == [cited]
    assert parts(server.requests[0].json)[1]["citations"] == {"enabled": True}
    assert server.requests[-1].json["messages"][1]["content"] == [text]
