"""Batches at the provider: what is uploaded and created, how results come back, and that nothing is paid for twice."""
import contextlib
import functools
import inspect
import json
import os
import random
import re
import tempfile
import time

import pytest

from tests import VENDORED, llmlite, testing
from tests.beside import beside, within

if VENDORED:
    pytest.skip("batches at the provider are no part of client.py", allow_module_level=True)

from llmlite import jobs  # noqa: E402
from tests.kills.at_provider import PLACES  # noqa: E402

POLL = jobs.Poll(0.01, 0.02, 0.05)
RETRY = llmlite.RetryPolicy(max_retries=3, backoff=0.01, rate_limit_max_retries=2, rate_limit_backoff=0.01)
KEY = "sk-not-to-be-seen"
QUICK = {"states": ["in_progress"]}
ASKED = [(f"id {number}", None, {"messages": f"say {number}"}) for number in range(5)]
SAID = {f"id {number}": f"say {number}" for number in range(5)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "out.jobs.json")


def side(function):
    """Mark a test that runs beside others, with a `path` of its own."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def placed(**given):
        with tempfile.TemporaryDirectory() as folder:
            function(path=os.path.join(folder, "out.jobs.json"), **given)

    left = [parameter for name, parameter in signature.parameters.items() if name != "path"]
    placed.__signature__ = signature.replace(parameters=left)
    return beside(placed)


def client(server, provider="openai", **options):
    options = {"retry": RETRY, "api_key": KEY, **options}
    return llmlite.Client("m", provider=provider, base_url=server.root + PLACES.get(provider, "/v1"), **options)


def run(llm, path, items=ASKED, **options):
    """The results by custom id; none comes twice."""
    results = {}

    def write(custom_id, result):
        assert custom_id not in results
        results[custom_id] = result

    with llm:
        assert jobs.run(llm, items, write, state=path, **{"poll": POLL, **options}) is True
    return results


def texts(results):
    return {custom_id: getattr(result, "text", result) for custom_id, result in results.items()}


def stop_after(server, path, method="POST"):
    """Says to stop once the server was asked for this path."""
    return lambda: any(request.method == method and request.path.endswith(path) for request in server.requests)


def kept(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)["jobs"]


def created(server):
    return [request for request in server.requests if request.method == "POST"
            and re.search("batches$|jobs$|batchGenerateContent$", request.path)]


# what is sent, and what comes back


@pytest.mark.parametrize("limits", [None, jobs.Limits(2, 1 << 20)], ids=["whole", "split"])
@pytest.mark.parametrize("provider", PLACES)
@side
def test_every_provider_does_all_requests(server, path, provider, limits):
    batches = server.batches()
    llm = client(server, provider)
    assert texts(run(llm, path, limits=limits)) == SAID
    assert [len(job.lines) for job in batches.jobs] == ([2, 2, 1] if limits else [5])
    assert set(batches.paid.values()) == {1} and len(batches.paid) == 5
    assert [job["fetched"] for job in kept(path)] == [True] * len(batches.jobs)
    now = llm.ledger.snapshot()
    assert (now["calls"], now["usage"], now["failed"]) == (5, llmlite.Usage(50, 25), 0)  # no poll is a billed call
    assert now["attempts"] == len(server.requests)
    texts_sent = b"".join(request.head for request in server.requests)
    assert texts_sent.count(KEY.encode()) == len(server.requests)


@side
def test_openais_upload_and_job_byte_for_byte(server, path):
    server.batches(**QUICK)
    run(client(server), path, [("a", None, {"messages": "hi", "temperature": 0})], seed=1)
    upload, create = server.requests[:2]
    boundary = re.search("boundary=(.+)", upload.headers["content-type"])[1]
    mark = kept(path)[0]["mark"]
    line = ('{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":'
            '[{"role":"user","content":"hi"}],"seed":1,"temperature":0}}')
    assert upload.path == "/v1/files" and upload.headers["content-length"] == str(len(upload.body))
    assert upload.body.decode() == "\r\n".join([
        f"--{boundary}", 'Content-Disposition: form-data; name="purpose"', "", "batch",
        f"--{boundary}", f'Content-Disposition: form-data; name="file"; filename="{mark}.jsonl"',
        "Content-Type: application/jsonl", "", line + "\n", f"--{boundary}--", ""])
    assert create.path == "/v1/batches" and create.headers["content-type"] == "application/json"
    assert create.json == {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h",
                           "metadata": {"llmlite": mark}}


@side
def test_together_gets_no_metadata_and_another_purpose(server, path):
    server.batches(**QUICK)
    run(client(server, "together"), path)
    assert b'name="purpose"\r\n\r\nbatch-api\r\n' in server.requests[0].body
    assert created(server)[0].json == {"input_file_id": "file-1", "endpoint": "/v1/chat/completions",
                                       "completion_window": "24h"}


@side
def test_mistral_has_the_model_on_the_job(server, path):
    server.batches(**QUICK)
    run(client(server, "mistral"), path, [("a", None, {"messages": "hi"})])
    assert b'\n{"custom_id":"a","body":{"messages":[{"role":"user","content":"hi"}]}}\n' in server.requests[0].body
    assert created(server)[0].json == {"model": "m", "endpoint": "/v1/chat/completions", "input_files": ["file-1"],
                                       "timeout_hours": 24, "metadata": {"llmlite": kept(path)[0]["mark"]}}


@side
def test_anthropic_gets_ids_of_ours_which_any_id_of_the_users_fits(server, path):
    server.batches(**QUICK)
    ids = ["a b", "\u00e9\ud800", "x" * 100]
    results = run(client(server, "anthropic"), path, [(id, None, {"messages": id[0]}) for id in ids])
    assert set(results) == set(ids) and results["x" * 100].text == "x"
    mark, sent = kept(path)[0]["mark"], created(server)[0].json["requests"]
    assert [each["custom_id"] for each in sent] == [f"{mark}-0", f"{mark}-1", f"{mark}-2"]
    assert sent[0]["params"] == {"model": "m", "max_tokens": 4096, "messages": [{"role": "user", "content": "a"}]}


@side
def test_gemini_puts_small_batches_into_the_request_and_large_ones_into_a_file(server, path):
    server.batches(**QUICK)
    assert texts(run(client(server, "gemini"), path)) == SAID
    body, mark = created(server)[0].json, kept(path)[0]["mark"]
    assert body["batch"]["displayName"] == mark
    assert body["batch"]["inputConfig"]["requests"]["requests"][0] == {
        "request": {"contents": [{"role": "user", "parts": [{"text": "say 0"}]}]}, "metadata": {"key": "id 0"}}
    size, first = len(created(server)[0].body), len(server.requests)
    for inline, files in ((size, 0), (size - 200, 1)):
        found = run(client(server, "gemini"), path, [(f"{id}+", *rest) for id, *rest in ASKED],
                    limits=jobs.Limits(9, 1 << 20, inline))
        assert len(found) == 5
        assert sum("/upload/" in request.path for request in server.requests[first:]) == 2 * files
        os.remove(path)
    start, upload = [request for request in server.requests if "/upload/" in request.path]
    assert start.path == "/upload/v1beta/files" and start.headers["x-goog-upload-command"] == "start"
    assert start.headers["x-goog-upload-header-content-length"] == str(len(upload.body))
    assert upload.headers["x-goog-upload-command"] == "upload, finalize" and upload.headers["x-goog-api-key"] == KEY
    assert json.loads(upload.body.splitlines()[0]) == {
        "key": "id 0+", "request": {"contents": [{"role": "user", "parts": [{"text": "say 0"}]}]}}
    assert created(server)[-1].json["batch"]["inputConfig"] == {"fileName": "files/file-1"}


@side
def test_jobs_are_split_by_bytes_as_they_are_sent(server, path):
    batches = server.batches(**QUICK)
    line = len(b'{"custom_id":"id 0","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":'
               b'[{"role":"user","content":"say 0"}]}}\n')
    run(client(server), path, limits=jobs.Limits(99, 1200), items=[
        (f"id {number}", None, {"messages": f"say {number}"}) for number in range(10)])
    assert 1200 // line == 8 and [len(job.lines) for job in batches.jobs] == [8, 2]
    results = run(client(server), path, [("big", None, {"messages": "x" * 1200}), ("other", None, {"messages": "x"})],
                  limits=jobs.Limits(99, 1200))
    assert str(results["big"]).startswith("a request of 1255 bytes: a job of openai may have 1200")
    assert results["other"].text == "x"


@side
def test_a_model_and_an_endpoint_have_a_job_of_their_own(server, path):
    batches = server.batches(**QUICK)
    items = [("a", "m1", {"messages": "1"}), ("b", "m2", {"messages": "2"}), ("c", "m1", {"messages": "3"}),
             ("d", "gpt-5-pro", {"messages": "4"})]
    assert texts(run(client(server), path, items)) == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert [[line.custom_id for line in job.lines] for job in batches.jobs] == [["a", "c"], ["b"], ["d"]]
    assert [job.asked["endpoint"] for job in batches.jobs] == ["/v1/chat/completions"] * 2 + ["/v1/responses"]


@side
def test_many_models_take_few_files(server, path):
    batches = server.batches(**QUICK)
    items = [(str(number), f"m{number % 51}", {"messages": str(number)}) for number in range(60)]
    assert texts(run(client(server), path, items)) == {id: id for id, _, _ in items}
    assert len(batches.jobs) == 60 and set(batches.paid.values()) == {1}  # those of a model are too far apart


@side
def test_results_may_be_packed(server, path):
    batches = server.batches(**QUICK)
    play = batches.play
    batches.play = lambda request: testing.body(batches.files[request.path.split("/")[3]], framing="gzip", headers={
        "Content-Type": "application/jsonl"}, split=7) if request.path.endswith("/content") else play(request)
    assert texts(run(client(server), path)) == SAID


@side
def test_a_job_answers_its_own_requests_alone(server, path):
    batches = server.batches(**QUICK)
    batches.fault("results", testing.json_body({"custom_id": "id 4", "response": {"status_code": 200, "body": {
        "choices": [{"message": {"content": "not mine"}, "finish_reason": "stop"}]}}}))
    results = run(client(server), path, limits=jobs.Limits(4, 1 << 20))
    assert results["id 4"].text == "say 4" and isinstance(results["id 0"], llmlite.ResponseError)


@side
def test_a_gateway_may_have_openais_and_others_say_who_has_one(server, path):
    batches = server.batches(**QUICK)
    llm = llmlite.Client("m", base_url=server.url)
    assert texts(run(llm, path)) == SAID and len(batches.jobs) == 1
    with pytest.raises(llmlite.ConfigurationError, match="perplexity has no Batch API.*openai, azure, groq, together"):
        run(client(server, "perplexity"), path)


@side
def test_answers_are_parsed_as_live_ones_are(server, path):
    call = {"id": "c", "name": "f", "arguments": {"x": 1}}
    server.batches(lambda request: testing.reply("", tool_calls=[call], usage=(7, 3)), **QUICK)
    reply = run(client(server), path, [("a", None, {"messages": "hi"})])["a"]
    assert reply.tool_calls[0].arguments == {"x": 1} and reply.finish_reason == "tool_calls"
    assert reply.usage == llmlite.Usage(7, 3) and reply.request_id == "req-1" and reply.model == "m"
    assert reply.attempts == 1 and reply.elapsed == 0.0


@side
def test_schemas_are_read_of_every_item_or_of_all(server, path):
    server.batches(lambda request: testing.reply("[]" if b"bad" in request.body else '{"x": 1}'), **QUICK)
    own = {"type": "object", "properties": {"x": {"type": "integer"}}}
    items = [("a", None, {"messages": "a", "schema": own}), ("b", None, {"messages": "b", "schema": dict(own)}),
             ("c", None, {"messages": "bad"}), ("d", None, {"messages": "d"})]
    llm = client(server)
    results = run(llm, path, items, schema=dict)
    assert [results[id].parsed for id in "abd"] == [{"x": 1}] * 3
    assert isinstance(results["c"], llmlite.SchemaError) and results["c"].provider == "openai"
    assert (llm.ledger.calls, llm.ledger.failed) == (4, 1)


@side
def test_progress_tells_how_far_it_is(server, path):
    server.batches(lambda request: testing.error(400) if b"say 4" in request.body else None,
                   states=["validating", "in_progress"])
    told = []
    run(client(server), path, progress=told.append, limits=jobs.Limits(3, 1 << 20))
    assert told[0] == jobs.Counts(4, 0, 0, 1, 0) and told[-1] == jobs.Counts(5, 4, 1, 2, 2)
    assert all(one.ended <= other.ended for one, other in zip(told, told[1:]))


@side
def test_what_is_written_is_on_the_disk_before_a_job_counts_as_fetched(server, path):
    server.batches(**QUICK)
    seen = []
    run(client(server), path, sync=lambda: seen.append(kept(path)[0]["fetched"]))
    assert seen == [False]


# what fails


def answers(request):
    replies = {b"say 0": testing.error(400, "too long", code="context_length_exceeded"), b"say 1": testing.error(429),
               b"say 2": testing.error(500, "sorry")}
    return next((reply for said, reply in replies.items() if said in request.body), None)


@pytest.mark.parametrize("provider", PLACES)
@side
def test_lines_that_failed_are_errors_of_their_class(server, path, provider):
    server.batches(answers, **QUICK)
    llm = client(server, provider)
    results = run(llm, path, ASKED[:4])
    kinds = [type(results[f"id {number}"]).__name__ for number in range(4)]
    first = "BadRequestError" if provider in ("anthropic", "gemini") else "ContextLengthError"
    if provider == "anthropic":  # its errors tell a code in their details
        first = kinds[0]
    assert kinds == [first, "RateLimitError", "ServerError", "Response"]
    error = results["id 2"]
    assert error.provider == provider and error.message == "sorry" and "sorry" in str(error)
    assert error.status_code == 500 and error.body["error"]["message"] == "sorry" or provider == "anthropic"
    assert (llm.ledger.calls, llm.ledger.failed) == (1, 3)


@pytest.mark.parametrize("provider", PLACES)
@pytest.mark.parametrize("end", ["expired", "cancelled"])
@side
def test_lines_left_undone_say_why(server, path, provider, end):
    server.batches(end=end, left=lambda line: "say 1" not in json.dumps(line.body), **QUICK)
    results = run(client(server, provider), path, ASKED[:3])
    assert results["id 1"].text == "say 1"
    for id in ("id 0", "id 2"):
        assert type(results[id]) is llmlite.APIError and results[id].code == f"batch_{end}"
        assert re.search(f"the batch (was )?{end} before this request was done", str(results[id]))
        assert results[id].status_code == 0


@pytest.mark.parametrize("provider", [name for name in PLACES if name != "anthropic"])
@side
def test_a_job_that_does_not_validate_fails_all_its_lines(server, path, provider):
    server.batches(end="failed", states=[])
    results = run(client(server, provider), path, ASKED[:2])
    for error in results.values():
        assert type(error) is llmlite.BadRequestError and error.body[0]["message"] == "scripted"
        assert str(error) == f"{provider}: the provider refused the batch: scripted"
    assert kept(path)[0]["end"] == "failed"


def played(step, *bodies):
    """A script: these bodies for a step's requests, in turn."""
    def play(batches):
        for body in bodies:
            batches.fault(step, body if isinstance(body, testing.Reply) else testing.json_body(body))
        return batches
    return play


@side
def test_a_refused_job_tells_each_line_what_is_wrong_with_it(server, path):
    problems = [{"code": "bad_line", "message": "bad", "line": 2}, {"code": "token_limit_exceeded", "message": "more"}]
    job = {"id": "batch_1", "status": "failed", "errors": {"data": problems[:1]}}
    played("poll", job)(server.batches())
    results = run(client(server), path, ASKED[:2])
    assert [results[id].code for id in ("id 0", "id 1")] == ["bad_line", "bad_line"]
    os.remove(path)
    played("poll", *[{**job, "errors": {"data": problems[::-1]}}] * 2)(server.batches())  # the second time alone
    results = run(client(server), path, ASKED[:2])
    assert [results[id].code for id in ("id 0", "id 1")] == ["token_limit_exceeded", "bad_line"]
    assert type(results["id 0"]) is llmlite.RateLimitError
    os.remove(path)
    played("poll", {**job, "errors": None})(server.batches())
    assert run(client(server), path, ASKED[:1])["id 0"].code == "batch_failed"


def crowded(batches):
    """A provider that has room for one job at a time."""
    add = batches.add

    def added(api, asked, lines):
        busy = any(not job.ended for job in batches.jobs)
        job = add(api, asked, lines)
        if busy:
            job.end, job.states = "failed", []
            job.problems = [{"code": "token_limit_exceeded", "message": "no room", "line": None}]
        return job
    batches.add = added
    return batches


@side
def test_jobs_for_which_there_is_no_room_are_created_once_there_is(server, path):
    batches = crowded(server.batches(states=["in_progress"] * 2))
    told = []
    results = run(client(server), path, limits=jobs.Limits(2, 1 << 20), progress=told.append)
    assert texts(results) == SAID and set(batches.paid.values()) == {1} and told[-1] == jobs.Counts(5, 5, 0, 3, 3)
    assert len([request for request in server.requests if request.path.endswith("/files")]) == 3
    assert [len(job["past"]) for job in kept(path)[1:]] == [1, 1]


@pytest.mark.parametrize("are_cancelled", [False, True])
@side
def test_a_run_with_jobs_for_which_there_was_no_room_goes_on_with_them(server, path, are_cancelled):
    batches = crowded(server.batches(states=["in_progress"] * 4))

    def are_deferred():
        return os.path.exists(path) and sum(bool(job.get("deferred")) for job in kept(path)) == 2
    stopped(client(server), path, limits=jobs.Limits(2, 1 << 20), stopping=are_deferred)
    if not are_cancelled:
        batches.fault("create", testing.raw(testing.RESET))  # the one that was refused is none
        batches.fault("create", testing.raw(testing.RESET), after=True)
        assert texts(run(client(server), path)) == SAID and set(batches.paid.values()) == {1}
        assert len([request for request in server.requests if request.path.endswith("/files")]) == 3
        return
    with client(server) as llm:
        said = jobs.cancel(llm, path)
    assert [line.partition(": ")[2] for line in said] == ["cancelled"] + [
        "waits for room; it is given up once a run finds another one cancelled"] * 2
    results = run(client(server), path)
    assert {error.code for error in results.values()} == {"batch_cancelled"} and len(created(server)) == 3


@side
def test_lines_that_are_missing_or_unreadable_are_errors(server, path):
    batches = server.batches(**QUICK)
    batches.fault("results", testing.body(b'{"custom_id":"id 0","response":{"status_code":200,"body":{"choices":['
                                          b'{"message":{"content":"x"},"finish_reason":"stop"}]}}}\nbroken\n[]\n{}\n\n'
                                          b'{"custom_id":"another","response":{"body":{}}}\n'
                                          b'{"custom_id":"id 1","response":{"status_code":null,"body":"?"}}\n'
                                          b'{"custom_id":"id 2","response":null,"error":null}\n'
                                          b'{"custom_id":"id 3","response":null,"error":{"code":"x","message":"y"}}'))
    results = run(client(server), path)
    assert results["id 0"].text == "x"
    assert isinstance(results["id 1"], llmlite.ResponseError) and "JSON of another kind" in str(results["id 1"])
    assert type(results["id 2"]) is llmlite.ServerError and "an error in the batch" in str(results["id 2"])
    assert results["id 3"].code == "x" and results["id 3"].message == "y"
    assert str(results["id 4"]) == ("openai: no result in the batch's files: 3 lines of them cannot be read")


def test_a_line_without_end_is_refused(server, path, monkeypatch):
    monkeypatch.setattr(jobs, "_LONGEST", 100_000)
    server.batches(**QUICK).fault("results", testing.body(b"x" * 200_000))
    with pytest.raises(llmlite.ResponseError, match="a line of over"):
        run(client(server), path)
    assert texts(run(client(server), path)) == SAID  # it goes on


@side
def test_items_that_cannot_be_asked_are_errors_in_their_place(server, path):
    server.batches(**QUICK)
    items = [("a", None, {"messages": "x", "wrong": 1}), ("b", None, "x"), ("c", None, {"messages": []}),
             ("d", None, {"messages": "x", "deadline": 3}), ("e", "openai/x", {"messages": "good"}),
             ("f", None, {}), ("g", None, {"messages": "x", "schema": {1: {2}}})]
    results = run(client(server), path, items)
    assert results["e"].text == "good"
    assert all(isinstance(results[id], llmlite.ConfigurationError) for id in "abcdfg")
    assert str(results["a"]).startswith("a batch at the provider takes no wrong (give what chat() takes")
    assert str(results["b"]).startswith("an item is a str")
    results = run(client(server), path, [(3, None, {"messages": "x"})])
    assert str(results[3]) == "custom_id=3: give a str"
    with pytest.raises(llmlite.ConfigurationError, match="takes no headers"):
        run(client(server), path, headers={})


@side
def test_an_id_that_comes_twice_is_an_error(server, path):
    batches = server.batches(**QUICK)
    with pytest.raises(llmlite.ConfigurationError, match="the custom_id 'id 0' is there twice"):
        run(client(server), path, ASKED[:1] * 2)
    assert not batches.jobs


# creation: once, whatever happens


@pytest.mark.parametrize("provider", PLACES)
@pytest.mark.parametrize("fault", [testing.raw(testing.RESET), testing.raw(testing.CLOSE), testing.error(500),
                                   testing.error(408), testing.body(b"<html>"), testing.json_body({})],
                         ids=["reset", "closed", "500", "408", "page", "no id"])
@side
def test_a_job_whose_creation_was_not_answered_is_found_and_not_created_again(server, path, provider, fault):
    batches = server.batches(listed_after=0.02, **QUICK)
    batches.fault("create", fault, after=True)
    assert texts(run(client(server, provider), path)) == SAID
    assert len(batches.jobs) == 1 and len(created(server)) == 1


@pytest.mark.parametrize("provider", PLACES)
@pytest.mark.parametrize("fault", [testing.raw(testing.RESET), testing.error(503)], ids=["reset", "503"])
@side
def test_a_job_that_was_not_taken_is_created_once_it_is_known(server, path, provider, fault):
    batches = server.batches(**QUICK)
    batches.fault("create", fault)
    assert texts(run(client(server, provider), path)) == SAID
    assert len(batches.jobs) == 1 and len(created(server)) == 2
    between = server.requests[server.requests.index(created(server)[0]) + 1]
    assert between.method == "GET" and created(server)[0].body == created(server)[1].body


@side
def test_creation_over_a_stale_connection_is_no_second_creation(server, path):
    """The connection dies as soon as the job is there: to a client it looks like one that was closed before."""
    batches = server.batches(**QUICK)
    batches.fault("create", testing.raw(testing.CLOSE), after=True)
    with llmlite.Client("m", provider="openai", base_url=server.url, api_key=KEY, retry=RETRY) as llm:
        llm.request("GET", "/batches")  # so that one is pooled
        run(llm, path)
    assert len(batches.jobs) == 1


@side
def test_a_session_that_signs_requests_does_not_create_twice(server, path):
    import requests
    batches = server.batches(**QUICK)
    batches.fault("create", testing.raw(testing.RESET), after=True)
    with requests.Session() as session:
        session.auth = lambda request: request
        assert texts(run(client(server, session=session), path)) == SAID
    assert len(batches.jobs) == 1


@pytest.mark.parametrize("fault", [testing.error(500), testing.raw(testing.RESET)], ids=["500", "reset"])
@side
def test_a_session_that_tries_again_by_itself_does_not_create_twice(server, path, fault):
    import requests
    import urllib3
    batches = server.batches(**QUICK)
    batches.fault("create", fault, after=True)
    with requests.Session() as session:
        again = urllib3.Retry(3, status_forcelist=[500], allowed_methods=None, backoff_factor=0)
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=again))
        assert texts(run(client(server, session=session), path)) == SAID
    assert len(batches.jobs) == 1 and len(created(server)) in (1, 2)  # a second has no body


@side
def test_a_creation_that_never_succeeds_is_raised_and_leaves_no_job(server, path):
    batches = server.batches(**QUICK)
    for retry, times in ((RETRY, 4), (None, 1)):
        batches.fault("create", testing.raw(testing.RESET, times=times))
        with pytest.raises(llmlite.APIConnectionError) as caught:
            run(client(server, retry=retry), path)
        assert caught.value.hint != "its body cannot be read once more" and kept(path) == []
    assert len(created(server)) == 5 and not batches.jobs


@side
def test_a_limit_is_waited_for_and_a_refusal_is_final(server, path):
    batches = server.batches(**QUICK)
    batches.fault("create", testing.error(429, retry_after=0.05))
    batches.fault("create", testing.error(429))
    started = time.monotonic()
    assert texts(run(client(server), path)) == SAID
    assert time.monotonic() - started > 0.05 and len(created(server)) == 3
    assert not any(request.method == "GET" and request.path.endswith("100") for request in server.requests)  # no search
    for fault, error in ((testing.error(429, times=3), llmlite.RateLimitError),
                         (testing.error(429, retry_after=999), llmlite.RateLimitError),
                         (testing.error(429, code="insufficient_quota"), llmlite.QuotaExceededError),
                         (testing.error(400, "no such endpoint"), llmlite.BadRequestError),
                         (testing.error(401), llmlite.AuthenticationError)):
        os.remove(path)
        batches.fault("create", fault)
        with pytest.raises(error) as caught:
            run(client(server), path)
        assert "read once more" not in str(caught.value) and kept(path) == []
    with pytest.raises(llmlite.RateLimitError):
        batches.fault("create", testing.error(429))
        run(client(server, retry=None), path)
    assert len(batches.jobs) == 1


@side
def test_a_key_that_was_refused_is_asked_for_anew_once(server, path):
    batches = server.batches(**QUICK)
    keys = iter(["first", "old", *["new"] * 99])
    batches.fault("create", testing.error(401))
    assert texts(run(client(server, api_key=lambda: next(keys)), path)) == SAID
    assert [request.headers["authorization"] for request in created(server)] == ["Bearer old", "Bearer new"]
    os.remove(path)
    batches.fault("create", testing.error(401, times=2))
    with pytest.raises(llmlite.AuthenticationError):
        run(client(server, api_key=lambda: "bad"), path)
    assert len(batches.jobs) == 1


def test_where_nobody_listens_nothing_was_created(path):
    with testing.Server() as server:
        batches = server.batches(**QUICK)
        llm = client(server, "gemini", retry=None)
    with pytest.raises(llmlite.APIConnectionError, match="refused"):
        run(llm, path)
    assert kept(path) == [] and not batches.jobs


@side
def test_uploads_are_tried_again_and_files_without_id_or_place_are_errors(server, path):
    batches = server.batches(**QUICK)
    batches.fault("upload", testing.error(500))
    batches.fault("upload", testing.raw(testing.RESET), after=True)
    assert texts(run(client(server), path)) == SAID and len(batches.jobs) == 1
    os.remove(path)
    batches.fault("upload", testing.json_body({"object": "file"}))
    with pytest.raises(llmlite.ResponseError, match="an answer without an id"):
        run(client(server), path)
    batches.fault("upload", testing.json_body({}))
    with pytest.raises(llmlite.ResponseError, match="no X-Goog-Upload-URL"):
        run(client(server, "gemini"), path, limits=jobs.Limits(9, 1 << 20))
    assert not os.path.exists(path)


@side
def test_a_file_that_is_not_ready_is_waited_for(server, path):
    batches = server.batches(**QUICK)
    pending = testing.json_body({"id": "file-1", "status": "pending"})
    batches.fault("upload", pending, after=True)
    played("file", pending, pending)(batches)
    assert texts(run(client(server, "azure"), path)) == SAID
    assert [request.path for request in server.requests[:6]] == [
        "/openai/v1/files", *["/openai/v1/files/file-1"] * 3, "/openai/v1/batches", "/openai/v1/batches/batch_1"]
    assert "is_ready" not in kept(path)[0]
    os.remove(path)
    batches.fault("upload", testing.json_body({"id": "file-3", "status": "pending"}), after=True)
    batches.fault("file", testing.json_body({"id": "file-3", "status": "running"}, times=200))
    assert texts(run(client(server, "azure"), path, poll=jobs.Poll(0.0001, 0.01, 0.01))) == SAID  # in the end it asks


# stopped, killed, started again


def stopped(llm, path, items=ASKED, **options):
    results = {}
    with llm:
        assert jobs.run(llm, items, results.__setitem__, state=path, **{"poll": POLL, **options}) is False
    return results


@pytest.mark.parametrize("provider", PLACES)
@side
def test_a_run_that_was_stopped_goes_on_with_the_jobs_it_has(server, path, provider):
    batches = server.batches(states=["in_progress"] * 3)
    assert stopped(client(server, provider), path, stopping=lambda: len(batches.jobs) == 2,
                   limits=jobs.Limits(2, 1 << 20)) == {}
    assert texts(run(client(server, provider), path, limits=jobs.Limits(2, 1 << 20))) == SAID
    assert [len(job.lines) for job in batches.jobs] == [2, 2, 1] and set(batches.submitted.values()) == {1}


@side
def test_stopping_wakes_a_wait(server, path):
    server.batches(states=["in_progress"] * 99)
    started = time.monotonic()
    stopped(client(server), path, poll=jobs.Poll(60, 60, 1), stopping=stop_after(server, "/batches/batch_1", "GET"))
    assert within(0, started, 2)


@side
def test_results_are_for_the_items_that_are_open(server, path):
    server.batches(states=["in_progress"] * 3)
    stopped(client(server), path, stopping=lambda: len(created(server)) == 1)
    assert texts(run(client(server), path, ASKED[3:])) == {"id 3": "say 3", "id 4": "say 4"}
    assert kept(path)[0]["fetched"]


@side
def test_a_job_of_which_nothing_is_wanted_is_not_waited_for(server, path):
    batches = server.batches(states=["in_progress"] * 3)
    stopped(client(server), path, stopping=lambda: len(created(server)) == 1)
    assert run(client(server), path, []) == {} and not kept(path)[0]["fetched"]
    batches.jobs[0].states = []
    assert run(client(server), path, []) == {} and kept(path)[0]["fetched"]
    assert not any("content" in request.path for request in server.requests)


@side
def test_items_of_jobs_that_were_fetched_are_asked_anew(server, path):
    batches = server.batches(lambda request: testing.error(500) if len(batches.jobs) == 1 else None, **QUICK)
    assert isinstance(run(client(server), path)["id 0"], llmlite.ServerError)
    assert texts(run(client(server), path, ASKED[:1])) == {"id 0": "ok"}
    assert [len(job.lines) for job in batches.jobs] == [5, 1]


@pytest.mark.parametrize("provider", ["openai", "mistral", "gemini"])  # the last two have the model beside the request
@side
def test_a_request_that_has_changed_is_neither_sent_nor_given_another_ones_answer(server, path, provider):
    batches = server.batches(**QUICK)
    stopped(client(server, provider), path, stopping=lambda: len(created(server)) == 1)
    for model, asked in ((None, {"messages": "another"}), (None, {"messages": []}), ("another", ASKED[0][2])):
        with pytest.raises(llmlite.ConfigurationError, match="'id 0' is not the one that was submitted.*jobs.json"):
            run(client(server, provider), path, [("id 0", model, asked)])
    assert len(batches.jobs) == 1


@pytest.mark.parametrize("provider", PLACES)
@pytest.mark.parametrize("taken", [True, False])
@side
def test_a_run_that_died_before_it_was_told_the_id(server, path, provider, taken):
    batches = server.batches(listed_after=9, **QUICK)
    batches.fault("create", testing.raw(testing.RESET), after=taken)
    stopped(client(server, provider), path, stopping=lambda: len(created(server)) == 1)
    batches.listed_after = 0
    assert [job["id"] for job in kept(path)] == [None]
    assert texts(run(client(server, provider), path)) == SAID
    assert len(batches.jobs) == 1 and len(created(server)) == 2 - taken


@contextlib.contextmanager
def others(batches, count=5, how_many=1):
    """Batches of somebody else's, created just before ours can be looked for."""
    add = batches.add

    def added(api, asked, lines):
        job = add(api, asked, lines)
        foreign = [testing.Line(f"foreign-{number}", {"messages": [{"content": "x"}]}, "/v1/messages")
                   for number in range(count)]
        for _ in range(how_many):
            add(api, {"root": batches._server.root}, foreign)
        return job
    batches.add = added
    yield
    batches.add = add


@side
def test_anthropics_batch_is_known_by_its_results_among_those_it_may_be(server, path):
    batches = server.batches(**QUICK)
    with others(batches, how_many=2):
        batches.fault("create", testing.raw(testing.RESET), after=True)
        assert texts(run(client(server, "anthropic"), path)) == SAID
    assert len(created(server)) == 1 and kept(path)[0]["id"] == "msgbatch_1"
    assert kept(path)[0]["candidates"]


@side
def test_anthropics_batch_is_created_again_once_none_of_those_it_may_be_is_it(server, path):
    batches = server.batches(**QUICK)
    lines = [testing.Line(f"foreign-{number}", {"messages": [{"content": "x"}]}, "/v1/messages") for number in range(5)]
    batches.add(testing._ANTHROPIC, {"root": server.root}, lines)  # older than ours: none of those

    def meanwhile(request):
        if request.method == "POST":
            for count in (5, 5, 4):
                batches.add(testing._ANTHROPIC, {"root": server.root}, lines[:count])

    def is_noted():
        return os.path.exists(path) and any("candidates" in job for job in kept(path))
    play = batches.play
    batches.play = lambda request: (play(request), meanwhile(request))[0]
    batches.fault("create", testing.raw(testing.RESET))
    batches.fault("poll", testing.error(404))  # somebody has deleted the first of those
    llm = client(server, "anthropic")
    assert stopped(llm, path, stopping=is_noted) == {}
    assert kept(path)[0]["candidates"] == ["msgbatch_3", "msgbatch_2"]
    batches.play = play
    assert texts(run(client(server, "anthropic"), path)) == SAID
    assert len(created(server)) == 2 and len(kept(path)) == 1 and kept(path)[0]["id"] == "msgbatch_5"


@pytest.mark.parametrize("provider, pages", [
    ("openai", [{"data": [{"id": "x"}], "has_more": True}] * 3), ("together", [[{"id": "x"}]]),
    ("mistral", [{"data": [{"id": "x"}]}, {"data": []}]),
    ("gemini", [{"operations": [{"name": "x"}], "nextPageToken": "y"}] * 3)])
@side
def test_lists_are_read_to_their_end_and_not_for_ever(server, path, provider, pages):
    batches = server.batches(**QUICK)
    batches.fault("create", testing.raw(testing.RESET))
    played("list", *pages * 9)(batches)
    assert texts(run(client(server, provider), path)) == SAID
    assert len(created(server)) == 2


# the state file


@side
def test_the_state_file_is_for_its_owner_and_holds_no_key(server, path):
    server.batches(**QUICK)
    run(client(server), path)
    folder = os.path.dirname(path)
    assert sorted(os.listdir(folder)) == ["out.jobs.ids", "out.jobs.json"]
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            assert KEY not in file.read()
        if os.name == "posix":
            assert os.stat(os.path.join(folder, name)).st_mode & 0o777 == 0o600
    with open(os.path.join(folder, "out.jobs.ids"), encoding="utf-8") as file:
        assert [json.loads(line)[0] for line in file] == list(SAID)


@side
def test_another_ones_and_broken_state_files_are_refused(server, path):
    server.batches(states=["in_progress"] * 9)
    stopped(client(server), path, stopping=lambda: len(created(server)) == 1)
    with pytest.raises(llmlite.ConfigurationError, match="jobs of openai at http.*: this client is groq's at"):
        run(client(server, "groq"), path)
    count = len(server.requests)
    ids = path.replace(".json", ".ids")
    for content in (b"", b"broken\n", b"3\n", b"[3]\n", None):
        if content is None:
            os.remove(ids)
        else:
            with open(ids, "wb") as file:
                file.write(content)
        with pytest.raises(llmlite.ConfigurationError, match="out.jobs.ids cannot be read: .*it belongs to"):
            run(client(server), path)
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    spoilt = [whole.replace(*change).encode() for change in (
        ('"ids": [', '"ids": [99999, '), ('"ids": [0', '"ids": [9999'), ('"id": "batch_1"', '"id": 3'),
        ('"count": 5', '"count": "x"'), ('"sent"', '"other"'), ('"mark"', '"other"'))]
    assert whole.encode() not in spoilt
    for content in (b"", b"[]", b'{"jobs": [{}]}', b'{"jobs": []}', b'{"jobs": 3}', b"\xff", *spoilt):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(llmlite.ConfigurationError, match="out.jobs.json cannot be read: .*paid for"):
            run(client(server), path)
    assert len(server.requests) == count


# polls and results


def test_polls_that_fail_are_made_again_for_a_while(server, path, monkeypatch):
    monkeypatch.setattr(jobs, "_OUTAGE", 3)
    batches = server.batches(**QUICK)
    patient = llmlite.RetryPolicy(max_retries=0, rate_limit_max_retries=0)
    batches.fault("poll", testing.error(500))
    batches.fault("poll", testing.body(b"<html>"))
    assert texts(run(client(server, retry=patient), path)) == SAID
    for retry, times in ((patient, 3), (None, 1)):
        os.remove(path)
        batches.fault("poll", testing.error(503, times=times))
        with pytest.raises(llmlite.OverloadedError):
            run(client(server, retry=retry), path)
    os.remove(path)
    batches.fault("poll", testing.error(404))
    with pytest.raises(llmlite.NotFoundError):
        run(client(server), path)


@side
def test_the_interval_grows(server, path):
    server.batches(states=["in_progress"] * 7)
    run(client(server), path, poll=jobs.Poll(0.01, 0.09, 0))
    times = [request.time for request in server.requests if request.path.endswith("batch_1")]
    gaps = [later - sooner for sooner, later in zip(times, times[1:])]
    assert gaps[-1] >= 0.09 > min(gaps[:3])


@side
def test_results_that_break_off_are_read_again_and_handed_out_once(server, path):
    batches = server.batches(**QUICK)
    llm = client(server)
    items = [(f"id {number}", None, {"messages": "x" * 1000}) for number in range(300)]
    broken = testing.body(b"", truncate=0)
    batches.fault("results", broken)
    play = batches.play

    def cut(request):
        """The first two downloads end in the middle."""
        reply = play(request)
        if request.path.endswith("/content") and sum(r.path == request.path for r in server.requests) < 3:
            content = batches.files[request.path.split("/")[3]]
            return testing.body(content, truncate=200_000, end="close")
        return reply
    batches._faults["results"].clear()
    batches.play = cut
    assert len(run(llm, path, items)) == 300
    assert llm.ledger.calls == 300 and llm.ledger.usage == llmlite.Usage(3000, 1500)
    os.remove(path)
    with pytest.raises(llmlite.StreamError):
        batches.play = lambda request: testing.body(b"x" * 9, truncate=3, end="close") if request.path.endswith(
            "/content") else play(request)
        run(client(server, retry=None), path)


def test_a_job_that_is_completed_but_has_no_files_yet_is_polled_on(server, path, monkeypatch):
    monkeypatch.setattr(jobs, "_UNREADY", 4)
    done = {"id": "batch_1", "status": "completed", "output_file_id": None, "error_file_id": None}
    played("poll", *[done] * 3)(server.batches(**QUICK))
    assert texts(run(client(server), path)) == SAID
    os.remove(path)
    played("poll", *[done] * 4)(server.batches(**QUICK))
    results = run(client(server), path)
    assert {str(result) for result in results.values()} == {"openai: no result in the batch's files"}


@side
def test_a_job_that_was_cancelled_may_tell_of_answers_before_their_files(server, path):
    early = {"id": "batch_1", "status": "cancelled", "request_counts": {"completed": 5}, "output_file_id": None}
    played("poll", *[early] * 3)(server.batches(**QUICK))
    assert texts(run(client(server), path)) == SAID


ODD = [None, [], 3, "x", {}, {"data": 3}, {"data": [3, None]}, {"id": 3}, {"job": 3}, {"id": "a/../b", "status": ["x"]},
       {"id": "x", "status": "completed", "errors": 3, "request_counts": 3, "output_file_id": 3, "outputs": [3, None]},
       {"status": "failed", "errors": {"data": [3, {"line": "x", "code": {}}]}, "error": {"code": []}},
       {"status": "failed", "errors": [[]], "error": "x"}, {"processing_status": "ended", "results_url": 3},
       {"name": {}, "metadata": 3, "operations": [3], "nextPageToken": {}}, {"file": {"name": "files/../x"}},
       {"metadata": {"state": "X_STATE_SUCCEEDED", "output": {"inlinedResponses": [3, {"metadata": 3, "error": 3}]}}},
       {"metadata": {"state": "X_STATE_FAILED", "output": 3}, "error": {"code": {}, "message": 3}},
       {"custom_id": [], "response": 3}, {"custom_id": "id 0", "response": {"status_code": "x", "body": [3]}},
       {"custom_id": "id 0", "error": 3}, {"custom_id": "x-99999999999999999999", "result": 3},
       {"key": 3, "response": 3}]


@pytest.mark.parametrize("step", ["upload", "create", "list", "poll", "results"])
@pytest.mark.parametrize("provider", ["openai", "mistral", "anthropic", "gemini"])
@side
def test_whatever_a_server_says_only_our_errors_come_out(server, path, provider, step):
    for odd in random.Random(provider + step).sample(ODD, 4):
        batches = server.batches(states=[])
        batches.fault(step, testing.json_body(odd))
        if step == "list":
            batches.fault("create", testing.raw(testing.RESET))
        with contextlib.suppress(llmlite.LLMError):
            results = run(client(server, provider), path, poll=jobs.Poll(0.001, 0.001, 0.001))
            assert set(results) == set(SAID)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


SPOKEN = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}


@pytest.mark.parametrize("output", [
    {"metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": {"inlinedResponses": [{"response": SPOKEN}]}}},
    {"metadata": {"state": "JOB_STATE_SUCCEEDED"}, "response": {
        "inlinedResponses": {"inlinedResponses": [{"response": SPOKEN, "metadata": {"key": "id 0"}}]}}}])
@side
def test_geminis_quirks(server, path, output):
    waits = {"name": "batches/1", "metadata": {"state": "BATCH_STATE_SUCCEEDED"}}
    played("poll", waits, {"name": "batches/1", "done": True, **output})(server.batches(**QUICK))
    assert texts(run(client(server, "gemini"), path, ASKED[:1])) == {"id 0": "x"}


@side
def test_geminis_lines_may_be_odd(server, path):
    rows = [{"error": {"code": 3, "message": "bad"}}, {"response": 7}, 7, {"status": {"code": 8, "message": "later"}}]
    output = {"inlinedResponses": {"inlinedResponses": rows}}
    played("poll", {"name": "batches/1", "metadata": {"state": "BATCH_STATE_SUCCEEDED", "output": output}})(
        server.batches(**QUICK))
    results = run(client(server, "gemini"), path)
    assert [type(results[id]).__name__ for id in SAID] == [
        "BadRequestError", "ServerError", "ServerError", "RateLimitError", "ResponseError"]
    os.remove(path)
    batches = server.batches(**QUICK)
    batches.fault("results", testing.body(b'{"response": {}}\n{"key": "id 0", "response": %b}\n' % json.dumps(
        SPOKEN).encode()))
    results = run(client(server, "gemini"), path, ASKED[:1], limits=jobs.Limits(9, 1 << 20))
    assert texts(results) == {"id 0": "x"}


def test_anthropics_lines_may_be_odd_and_its_results_come_from_its_own_host(server, path):
    batches = server.batches(**QUICK)

    def told(job, shown=testing._ANTHROPIC.shown):
        return {**shown(job), "results_url": "http://other.example/results" if job.ended else None}
    batches.fault("results", testing.body(b'{"custom_id":"x-1"}\n7\n{"custom_id":"x"}\n'))
    llm = client(server, "anthropic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing._ANTHROPIC, "shown", told)
        results = run(llm, path)
    assert {str(result) for result in results.values()} == {
        "anthropic: no result in the batch's files: 3 lines of them cannot be read"}
    assert server.requests[-1].path == "/v1/messages/batches/msgbatch_1/results"
    os.remove(path)
    batches.fault("poll", testing.json_body({"id": "msgbatch_2", "processing_status": "ended", "results_url": "x"}))
    mark = []
    batches.play = lambda request, play=batches.play: testing.body(json.dumps({
        "custom_id": kept(path)[0]["mark"] + "-0", "result": {"type": "new", "error": None}}).encode()
    ) if request.path.endswith("results") else play(request)
    assert type(run(client(server, "anthropic"), path, ASKED[:1])["id 0"]) is llmlite.ServerError and not mark


@side
def test_mistral_may_have_its_results_in_the_job(server, path):
    line = {"custom_id": "id 0", "response": {"status_code": 200, "body": {"choices": [{
        "message": {"content": "x"}, "finish_reason": "stop"}]}}}
    played("poll", {"id": "job-1", "status": "SUCCESS", "outputs": [line]})(server.batches(**QUICK))
    assert texts(run(client(server, "mistral"), path, ASKED[:1])) == {"id 0": "x"}


@side
def test_anthropics_batch_is_not_judged_before_its_results_are_there(server, path):
    batches = server.batches(**QUICK)
    batches.fault("create", testing.raw(testing.RESET), after=True)
    early = {"id": "msgbatch_1", "processing_status": "ended", "results_url": None}
    played("poll", early, early, {"id": "msgbatch_1", "processing_status": "in_progress"})(batches)
    assert texts(run(client(server, "anthropic"), path)) == SAID and len(created(server)) == 1
    batches.fault("create", testing.raw(testing.RESET), after=True)
    played("poll", {**early, "archived_at": "2026-01-01"})(batches)
    items = [(f"{id} again", *rest) for id, *rest in ASKED]
    assert len(run(client(server, "anthropic"), path, items)) == 5 and len(created(server)) == 3


# cancelling


@pytest.mark.parametrize("provider", PLACES)
@side
def test_jobs_are_cancelled_and_what_was_done_is_fetched(server, path, provider):
    batches = server.batches(states=["in_progress"] * 99, left=lambda line: "say 1" not in json.dumps(line.body))
    stopped(client(server, provider), path, stopping=lambda: len(created(server)) == 1)
    with client(server, provider) as llm:
        id = kept(path)[0]["id"]
        assert jobs.cancel(llm, path) == [f"{id}: cancelled"]
    results = run(client(server, provider), path)
    assert results["id 1"].text == "say 1" and results["id 0"].code == "batch_cancelled"
    assert len(batches.jobs) == 1
    with client(server, provider) as llm:
        assert jobs.cancel(llm, path) == []


@side
def test_what_has_ended_is_not_cancelled(server, path):
    batches = server.batches(states=["in_progress"] * 2)
    stopped(client(server), path, stopping=lambda: len(created(server)) == 1)
    running = {"id": "batch_1", "status": "in_progress"}
    with client(server) as llm:
        batches.jobs[0].states = []
        batches.fault("poll", testing.json_body(running))
        batches.advance(batches.jobs[0])
        assert jobs.cancel(llm, path) == ["batch_1: completed before: batch_1 is completed"]  # meanwhile
        assert jobs.cancel(llm, path) == ["batch_1: completed before"]
        batches.fault("poll", testing.json_body(running, times=2))
        with pytest.raises(llmlite.APIError):
            jobs.cancel(llm, path)


@side
def test_jobs_whose_id_was_never_told_are_cancelled_where_they_are_found(server, path):
    for provider in ("openai", "anthropic"):
        batches = server.batches(states=["in_progress"] * 9, listed_after=9)
        batches.fault("create", testing.raw(testing.RESET), after=True)
        before = len(created(server))
        stopped(client(server, provider), path, stopping=lambda before=before: len(created(server)) > before)
        batches.listed_after = 0
        with client(server, provider) as llm:
            said = jobs.cancel(llm, path)
        if provider == "openai":
            assert said == ["batch_1: cancelled"]
            os.remove(path)
    assert said == [f"{kept(path)[0]['mark']}: its id was never told; it may be msgbatch_1"]
    os.remove(path)
    batches = server.batches()
    batches.fault("create", testing.raw(testing.RESET))
    before = len(created(server))
    stopped(client(server), path, stopping=lambda: len(created(server)) > before)
    with client(server) as llm:
        assert jobs.cancel(llm, path) == [f"{kept(path)[0]['mark']}: its id was never told; no such job is listed"]


@side
def test_without_a_state_file_there_is_nothing_to_cancel(server, path):
    with client(server) as llm, pytest.raises(llmlite.ConfigurationError, match="out.jobs.json is not there"):
        jobs.cancel(llm, path)
