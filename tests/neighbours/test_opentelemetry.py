"""OpenTelemetry: each request has its span, whenever the instrumentation was set up."""
import pytest

from tests import testing
from tests.neighbours import run

pytest.importorskip("opentelemetry.sdk")
KINDS = pytest.mark.parametrize("kind", ["requests", "urllib3", "both"])
SESSIONS = pytest.mark.parametrize("session", ["own", "theirs"])
CODE = """
    import json, sys, requests
    from opentelemetry.instrumentation.requests import RequestsInstrumentor
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    url, kind, session, order = sys.argv[1:]
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def set_up():
        if kind != "urllib3":
            RequestsInstrumentor().instrument(tracer_provider=provider)
        if kind != "requests":
            URLLib3Instrumentor().instrument(tracer_provider=provider)

    def spans():
        found = [[span.attributes["http.method"], span.attributes["http.status_code"]]
                 for span in exporter.get_finished_spans()]
        exporter.clear()
        return found

    if order == "before":
        set_up()
    from tests import llmlite
    from tests.neighbours import ask
    policy = llmlite.RetryPolicy(backoff=0.001)
    made = None if session == "own" else requests.Session()
    llm = llmlite.Client("m", base_url=url, retry=policy, session=made)
    first = ask(llm)
    spans()
    if order == "after":
        set_up()
    texts = [first, ask(llm), ask(llm, "stream")]
    good = spans()
    texts.append(ask(llm))
    print(json.dumps([texts, good, spans()]))
"""


@KINDS
@SESSIONS
@pytest.mark.parametrize("order", ["before", "after"])
def test_spans(server, kind, session, order):
    """A span a request, the retried ones too, set up before the import or under a client in use; traces go along."""
    server.reply("ok", times=3)
    server.error(500)
    server.handle(lambda request: testing.reply("ok"))
    texts, good, retried = run(CODE, server.url, kind, session, order)
    assert texts == ["ok"] * 4
    assert good == [["POST", 200]] * 2 and retried == [["POST", 500], ["POST", 200]]
    assert all(request.headers.get("traceparent") for request in server.requests[1:])
