"""The Batch APIs that the scripted provider plays: each one's shapes, what it counts, how it can fail."""
import contextlib
import http.client
import json

import pytest

from tests import testing
from tests.test_testing import Answer

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "hello"}]}}
FORM = {"Content-Type": 'multipart/form-data; boundary="b"'}


def ask(server, method, path, body=None, headers=None):
    """One request: its answer, whatever it is."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, sent, headers or {})
        return Answer(connection.getresponse())


def form(content, purpose="batch"):
    parts = [("purpose", purpose.encode()), ('file"; filename="b.jsonl', content)]
    body = b"".join(b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
                    for name, value in parts)
    return body + b"--b--\r\n"


def lines(*changes):
    return b"".join(json.dumps({**LINE, **change}).encode() + b"\n" for change in changes or [{}])


def upload(server, content=None, purpose="batch"):
    return ask(server, "POST", "/v1/files", form(lines() if content is None else content, purpose), FORM).json["id"]


def create(server, content=None, purpose="batch", **more):
    asked = {"input_file_id": upload(server, content, purpose), "endpoint": "/v1/chat/completions",
             "completion_window": "24h", **more}
    return ask(server, "POST", "/v1/batches", asked).json


def ended(server, id, path="/v1/batches/{}"):
    for _ in range(4):
        job = ask(server, "GET", path.format(id)).json
    return job


def content(server, id):
    return [json.loads(line) for line in ask(server, "GET", f"/v1/files/{id}/content").body.splitlines()]


def test_openais_batch_from_the_file_to_its_results(server):
    batches = server.batches()
    job = create(server, lines({}, {"custom_id": "b"}), metadata={"k": "v"})
    assert (job["id"], job["object"], job["status"]) == ("batch_1", "batch", "validating")
    assert (job["input_file_id"], job["metadata"], job["output_file_id"]) == ("file-1", {"k": "v"}, None)
    told = [ask(server, "GET", "/v1/batches/batch_1").json for _ in range(5)]
    assert [job["status"] for job in told] == ["validating", "in_progress", "finalizing", "completed", "completed"]
    assert told[-1]["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert told[-1]["usage"] == {"input_tokens": 20, "output_tokens": 10} and told[-1]["error_file_id"] is None
    found = content(server, told[-1]["output_file_id"])
    assert [line["custom_id"] for line in found] == ["b", "a"]  # in any order
    assert found[0]["response"]["status_code"] == 200 and found[0]["error"] is None
    assert found[0]["response"]["body"]["choices"][0]["message"]["content"] == "hello"
    assert batches.submitted == batches.paid == {"a": 1, "b": 1}
    assert [job.id for job in batches.jobs] == ["batch_1"] and batches.job("batch_1").ended


def test_lines_are_answered_by_a_function_by_the_servers_handler_or_an_echo(server):
    server.handle(lambda request: testing.reply("handled " + request.path))
    server.batches()
    assert content(server, ended(server, create(server)["id"])["output_file_id"])[0]["response"]["body"]["choices"][0][
        "message"]["content"] == "handled /v1/chat/completions"
    refused = testing.error(400, "no m")
    server.batches(lambda request: refused if b"bad" in request.body else None)
    bad = {"custom_id": "b", "body": {"model": "m", "messages": [{"content": "bad"}]}}
    job = ended(server, create(server, lines({}, bad))["id"])
    assert content(server, job["output_file_id"])[0]["response"]["body"]["choices"][0]["message"]["content"] == "ok"
    wrong = content(server, job["error_file_id"])[0]
    assert wrong["response"]["status_code"] == 400 and wrong["response"]["body"]["error"]["message"] == "no m"
    assert job["request_counts"] == {"total": 2, "completed": 1, "failed": 1}


@pytest.mark.parametrize("body, said", [
    ({"messages": [{"content": [{"type": "text", "text": "x"}, "y", {"type": "image"}]}]}, "xy"),
    ({"input": "x"}, "x"), ({"input": []}, ""), ({"contents": [{"parts": [{"text": "x"}]}]}, "x")])
def test_an_echo_is_the_last_message(server, body, said):
    server.batches()
    job = ended(server, create(server, lines({"body": {"model": "m", **body}}))["id"])
    assert content(server, job["output_file_id"])[0]["response"]["body"]["choices"][0]["message"]["content"] == said


def test_queued_replies_and_other_paths_are_no_batches(server):
    server.batches()
    server.reply("queued")
    assert ask(server, "POST", "/v1/batches", {}).json["choices"]
    assert ask(server, "POST", "/v1/chat/completions", {}).status == 501
    server.handle(lambda request: testing.reply("live"))
    assert ask(server, "POST", "/v1/chat/completions", {}).json["choices"][0]["message"]["content"] == "live"


def test_a_job_that_expires_keeps_what_was_done(server):
    batches = server.batches(end="expired", left=lambda line: line.custom_id != "a", states=[])
    job = ended(server, create(server, lines({}, {"custom_id": "b"}))["id"])
    assert job["status"] == "expired" and batches.paid == {"a": 1}
    assert [line["custom_id"] for line in content(server, job["output_file_id"])] == ["a"]
    left = content(server, job["error_file_id"])[0]
    assert (left["custom_id"], left["response"], left["error"]["code"]) == ("b", None, "batch_expired")
    assert batches.jobs[0].undone == 1


def test_a_job_is_cancelled_once_and_only_before_its_end(server):
    batches = server.batches(states=["in_progress"] * 9)
    id = create(server)["id"]
    assert ask(server, "POST", f"/v1/batches/{id}/cancel").json["status"] == "cancelling"
    assert [ask(server, "GET", f"/v1/batches/{id}").json["status"] for _ in range(2)] == ["cancelling", "cancelled"]
    assert ask(server, "GET", f"/v1/batches/{id}").json["output_file_id"] is None
    assert ask(server, "POST", f"/v1/batches/{id}/cancel").status == 409
    assert batches.submitted == {"a": 1} and not batches.paid


@pytest.mark.parametrize("content, code, line", [
    (b"", "empty_file", None), (lines({}, {}), "duplicate_custom_id", 2),
    (lines({}, {"custom_id": "b", "body": {"model": "n"}}), "mismatched_model", None)])
def test_a_file_that_is_wrong_does_not_validate(server, content, code, line):
    batches = server.batches()
    job = create(server, content)
    assert (job["status"], job["errors"]) == ("validating", None)
    job = ask(server, "GET", f"/v1/batches/{job['id']}").json
    assert (job["status"], job["output_file_id"]) == ("failed", None)
    assert (job["errors"]["data"][0]["code"], job["errors"]["data"][0]["line"]) == (code, line)
    assert not batches.paid


def test_a_job_can_be_scripted_not_to_validate(server):
    server.batches(end="failed", states=[])
    assert ended(server, create(server)["id"])["errors"]["data"][0]["message"] == "scripted"


def test_what_is_not_there_and_what_is_no_form_is_an_error(server):
    server.batches()
    assert ask(server, "GET", "/v1/batches/batch_9").json["error"]["message"] == "there is no batch_9"
    assert ask(server, "GET", "/v1/files/file-9/content").status == 404
    assert ask(server, "POST", "/v1/batches", {"input_file_id": "file-9"}).status == 404
    assert ask(server, "POST", "/v1/files", b"{}").status == 400
    assert ask(server, "POST", "/v1/files", form(b"").replace(b"purpose", b"no"), FORM).status == 404
    assert ask(server, "POST", "/v1/files", b"--b\r\nX: y\r\n\r\nz\r\n--b--", FORM).status == 404


def test_faults_come_in_turn_before_or_after_what_they_fail(server):
    batches = server.batches()
    batches.fault("create", testing.error(429, times=2))
    batches.fault("create", testing.error(500), after=True)
    file = upload(server)
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions"}
    statuses = [(ask(server, "POST", "/v1/batches", asked).status, len(batches.jobs)) for _ in range(4)]
    assert statuses == [(429, 0), (429, 0), (500, 1), (200, 2)]
    batches.fault("create", testing.raw(testing.RESET), after=True)
    with pytest.raises(ConnectionError):
        ask(server, "POST", "/v1/batches", asked)
    assert len(batches.jobs) == 3 and batches.submitted == {"a": 3}
    with pytest.raises(KeyError):
        batches.fault("other", testing.error(500))
    assert ask(server, "GET", f"/v1/files/{file}").json == {
        "id": file, "object": "file", "bytes": len(lines()), "purpose": "batch", "status": "processed"}
    for step, method, path in (("list", "GET", ""), ("poll", "GET", "/batch_1"), ("cancel", "POST", "/batch_1/cancel")):
        batches.fault(step, testing.error(503))
        assert ask(server, method, "/v1/batches" + path).status == 503
        assert ask(server, method, "/v1/batches" + path).status == 200


def test_answers_can_come_late_after_what_they_tell_of(server):
    batches = server.batches(delay=0.05)
    batches.fault("poll", testing.raw(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert batches.play(testing.Request(b"GET /v1/batches/x HTTP/1.1\r\n\r\n")).delay == 0
    file = upload(server)
    sent = server.requests[-1].sent[0][0] - server.requests[-1].time
    assert sent >= 0.05 and file == "file-1"


def test_a_list_has_the_newest_first_in_pages_and_shows_new_jobs_late(server):
    batches = server.batches(listed_after=9)
    for _ in range(3):
        create(server)
    assert ask(server, "GET", "/v1/batches").json["data"] == []
    batches.listed_after = 0
    page = ask(server, "GET", "/v1/batches?limit=2").json
    assert [job["id"] for job in page["data"]] == ["batch_3", "batch_2"] and page["has_more"] is True
    page = ask(server, "GET", f"/v1/batches?limit=2&after={page['last_id']}").json
    assert [job["id"] for job in page["data"]] == ["batch_1"] and page["has_more"] is False


def test_togethers_job_is_wrapped_and_its_states_are_upper_case(server):
    server.batches()
    made = create(server, b'{"custom_id":"a","body":{"model":"m","messages":[{"content":"hi"}]}}', "batch-api")
    assert made["job"]["status"] == "VALIDATING" and made["warning"] is None and "metadata" not in made["job"]
    told = [ask(server, "GET", f"/v1/batches/{made['job']['id']}").json for _ in range(4)]
    assert [job["status"] for job in told] == ["VALIDATING", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED"]
    assert (told[0]["progress"], told[3]["progress"], told[3]["error"]) == (0, 100, None)
    assert content(server, told[3]["output_file_id"])[0]["custom_id"] == "a"
    failed = ended(server, create(server, b"", "batch-api")["job"]["id"])
    assert (failed["status"], failed["error"], failed["progress"]) == ("FAILED", "The file is empty.", 0)


def test_mistrals_job_names_its_model(server):
    batches = server.batches()
    body = {"messages": [{"content": "hi"}]}
    file = upload(server, b"".join(json.dumps({"custom_id": id, "body": body}).encode() + b"\n" for id in "ab"))
    asked = {"model": "m", "endpoint": "/v1/chat/completions", "input_files": [file], "metadata": {"k": "v"}}
    job = ask(server, "POST", "/v1/batch/jobs", asked).json
    assert (job["id"], job["status"], job["model"], job["metadata"]) == ("job-1", "QUEUED", "m", {"k": "v"})
    job = ended(server, "job-1", "/v1/batch/jobs/{}")
    assert (job["status"], job["total_requests"], job["succeeded_requests"]) == ("SUCCESS", 2, 2)
    assert [line["custom_id"] for line in content(server, job["output_file"])] == ["b", "a"]
    assert batches.jobs[0].lines[0].body == {"model": "m", **body}
    listed = [ask(server, "GET", f"/v1/batch/jobs?page_size=1&page={page}").json for page in (0, 1)]
    assert [len(page["data"]) for page in listed] == [1, 0] and listed[0]["total"] == 1
    batches.end, batches.states = "expired", []
    ask(server, "POST", "/v1/batch/jobs", asked)
    job = ended(server, "job-2", "/v1/batch/jobs/{}")
    assert (job["status"], job["output_file"], job["error_file"]) == ("TIMEOUT_EXCEEDED", None, None)
    batches.end = "failed"
    ask(server, "POST", "/v1/batch/jobs", asked)
    assert ended(server, "job-3", "/v1/batch/jobs/{}")["errors"] == [{"message": "scripted", "count": 1}]
    batches.end, batches.states = "completed", ["in_progress"]
    ask(server, "POST", "/v1/batch/jobs", asked)
    assert ask(server, "POST", "/v1/batch/jobs/job-4/cancel").json["status"] == "CANCELLATION_REQUESTED"


def test_anthropics_batch_has_neither_files_nor_metadata(server):
    batches = server.batches(lambda request: testing.error(400) if b"bad" in request.body else testing.reply("yes"))
    requests = [{"custom_id": id, "params": {"model": "m", "messages": [{"content": id}]}} for id in ("a", "bad")]
    batch = ask(server, "POST", "/v1/messages/batches", {"requests": requests}).json
    assert (batch["id"], batch["processing_status"], batch["results_url"]) == ("msgbatch_1", "in_progress", None)
    assert batch["request_counts"] == {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    batch = ended(server, "msgbatch_1", "/v1/messages/batches/{}")
    assert batch["processing_status"] == "ended" and batch["results_url"].startswith(server.root)
    assert batch["request_counts"] == {"processing": 0, "succeeded": 1, "errored": 1, "canceled": 0, "expired": 0}
    answer = ask(server, "GET", "/v1/messages/batches/msgbatch_1/results").body.splitlines()
    found = {line["custom_id"]: line["result"] for line in map(json.loads, answer)}
    assert found["a"]["type"] == "succeeded" and found["a"]["message"]["content"][0]["text"] == "yes"
    assert found["bad"]["type"] == "errored"
    assert found["bad"]["error"]["error"]["type"] == "invalid_request_error"
    assert [job["id"] for job in ask(server, "GET", "/v1/messages/batches?limit=5").json["data"]] == ["msgbatch_1"]
    batches.states = ["in_progress"] * 9
    ask(server, "POST", "/v1/messages/batches", {"requests": requests})
    cancelled = ask(server, "POST", "/v1/messages/batches/msgbatch_2/cancel").json
    assert cancelled["processing_status"] == "canceling"
    assert ended(server, "msgbatch_2", "/v1/messages/batches/{}")["request_counts"]["canceled"] == 2
    batches.end, batches.states = "expired", []
    ask(server, "POST", "/v1/messages/batches", {"requests": requests})
    assert ended(server, "msgbatch_3", "/v1/messages/batches/{}")["request_counts"]["expired"] == 2


@pytest.mark.parametrize("ids", [["a b"], ["x" * 65], ["a", "a"], []])
def test_anthropic_refuses_what_is_wrong_at_once_in_its_own_shape(server, ids):
    batches = server.batches()
    answer = ask(server, "POST", "/v1/messages/batches", {"requests": [{"custom_id": id, "params": {}} for id in ids]})
    assert answer.status == 400 and answer.json["type"] == "error" and not batches.jobs


def gemini(*keys):
    requests = [{"request": {"contents": [{"parts": [{"text": key}]}]}, "metadata": {"key": key}} for key in keys]
    return {"batch": {"displayName": "n", "inputConfig": {"requests": {"requests": requests}}}}


def test_geminis_batch_is_an_operation_with_the_answers_inside(server):
    batches = server.batches(lambda request: testing.error(400, "no") if b"bad" in request.body else testing.reply("y"))
    job = ask(server, "POST", "/v1beta/models/g:batchGenerateContent", gemini("a", "bad")).json
    assert job["name"] == "batches/1" and "done" not in job and "output" not in job["metadata"]
    assert job["metadata"]["displayName"] == "n" and job["metadata"]["model"] == "models/g"
    told = [ask(server, "GET", "/v1beta/batches/1").json for _ in range(4)]
    assert [job["metadata"]["state"] for job in told] == [
        "BATCH_STATE_PENDING", "BATCH_STATE_RUNNING", "BATCH_STATE_RUNNING", "BATCH_STATE_SUCCEEDED"]
    found = told[3]["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
    assert told[3]["response"] == told[3]["metadata"]["output"] and told[3]["done"] is True
    assert [line["metadata"]["key"] for line in found] == ["a", "bad"]  # in the order of the requests
    assert found[0]["response"]["candidates"][0]["content"]["parts"][0]["text"] == "y"
    assert (found[1]["error"]["code"], found[1]["error"]["message"]) == (3, "no")
    for _ in range(2):
        ask(server, "POST", "/v1beta/models/g:batchGenerateContent", gemini("a"))
    page = ask(server, "GET", "/v1beta/batches?pageSize=2").json
    assert [job["name"] for job in page["operations"]] == ["batches/3", "batches/2"]
    page = ask(server, "GET", f"/v1beta/batches?pageSize=2&pageToken={page['nextPageToken']}").json
    assert [job["name"] for job in page["operations"]] == ["batches/1"] and "nextPageToken" not in page
    ask(server, "POST", "/v1beta/batches/2:cancel")
    job = ended(server, "2", "/v1beta/batches/{}")
    assert job["metadata"]["state"] == "BATCH_STATE_CANCELLED" and batches.job("2").undone == 1
    batches.end, batches.states = "failed", []
    ask(server, "POST", "/v1beta/models/g:batchGenerateContent", gemini("a"))
    job = ask(server, "GET", "/v1beta/batches/4").json
    assert job["metadata"]["state"] == "BATCH_STATE_FAILED" and job["error"] == {"code": 3, "message": "scripted"}
    assert ask(server, "GET", "/v1beta/batches/9").json["error"]["status"] == "NOT_FOUND"


def test_geminis_files_go_up_in_two_steps_and_come_down_by_name(server):
    server.batches(lambda request: testing.error(429) if b"bad" in request.body else testing.reply("y"))
    start = ask(server, "POST", "/upload/v1beta/files", {"file": {}}, {"X-Goog-Upload-Command": "start"})
    url = start.headers["X-Goog-Upload-URL"]
    assert url.startswith(server.root + "/upload/v1beta/files?")
    made = b"".join(json.dumps({"key": key, "request": {"contents": [{"parts": [{"text": key}]}]}}).encode() + b"\n"
                    for key in ("a", "bad"))
    path = url[len(server.root):]
    file = ask(server, "POST", path, made, {"X-Goog-Upload-Command": "upload, finalize"}).json["file"]
    assert file["name"] == "files/file-1" and file["state"] == "ACTIVE"
    assert ask(server, "POST", path, made, {"X-Goog-Upload-Command": "query"}).status == 400
    batch = {"batch": {"displayName": "n", "inputConfig": {"fileName": file["name"]}}}
    ask(server, "POST", "/v1beta/models/g:batchGenerateContent", batch)
    name = ended(server, "1", "/v1beta/batches/{}")["metadata"]["output"]["responsesFile"]
    found = ask(server, "GET", f"/v1beta/{name}:download?alt=media").body.splitlines()
    found = {line["key"]: line for line in map(json.loads, found)}
    assert found["a"]["response"]["candidates"] and found["bad"]["error"]["code"] == 8
