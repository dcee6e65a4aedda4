"""llmlite: a synchronous client for large language models, on requests and urllib3.

    llm = llmlite.Client("openai/gpt-5-mini")       # the key is in OPENAI_API_KEY
    print(llm.chat("Why is the sky blue?"))
    for text in llm.stream("Tell me a story"):
        print(text, end="", flush=True)

What to call; help(llmlite.Client.chat) tells of each in full:

    Client           a model of a provider's: chat, stream, complete, stream_tokens, embed, run_tools, map,
                     conversation, load_conversation, models, count_tokens, tokenize, detokenize, request, close
    chat, stream     without a client of one's own: llmlite.chat("Hi", model="openai/gpt-5-mini")
    Conversation     keeps the history, and sends it along: talk = llm.conversation(); talk.send("Hi")
    user, system, assistant, tool_result
                     messages: llm.chat([llmlite.user("What is it?", images="sky.png")])
    RetryPolicy      what is tried again, and when: Client(..., retry=llmlite.RetryPolicy(max_retries=1))
    RateLimit        how much is asked a minute: Client(..., rate_limit=llmlite.RateLimit(500))
    Cache            keeps whole answers in a file: Client(..., cache=llmlite.Cache("answers.sqlite"))
    providers        the providers, their addresses and the variables of their keys
    replay           sends a failed request again, out of the file that Client(..., save_failed="failed") wrote

What comes back:

    Response         text, usage, finish_reason, tool_calls, parsed, message and more; str(reply) is the text
    Stream           a reply as it comes; events() gives Event
    Embeddings       vectors, usage, model
    Answer           of Client.request; events() gives ServerSentEvent
    Ledger           what a client has spent: llm.ledger.usage
    Usage, ToolCall, Token, Logprob, File           what stands in them

What is raised; all are LLMError, and say in one line what to do:

    ConfigurationError                              before anything was sent
    APIConnectionError, APITimeoutError, DeadlineExceededError
    APIError         the provider's: BadRequestError, ContextLengthError, AuthenticationError, PaymentRequiredError,
                     PermissionDeniedError, NotFoundError, RateLimitError, QuotaExceededError, ServerError,
                     OverloadedError
    ResponseError    no answer in it: EmptyResponseError, SchemaError
    StreamError      amid a stream: TruncatedStreamError

Beside these: llmlite.batch (files of prompts), llmlite.testing (a server for your tests), llmlite.__version__.
"""
from .cache import Cache as Cache
from .client import *
from .client import __version__ as __version__
from .notebook import load_ipython_extension as load_ipython_extension
from .notebook import unload_ipython_extension as unload_ipython_extension
