"""POST /v1/chat/completions with chat templates: the model's own, a file's, the default; what clients get of their errors."""

import json
import pathlib
import shutil
import signal
import subprocess

import pytest

from conftest import BINARY
from serving import Server

TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('The system message comes first') }}{% endif %}
    {{- '<|start|>' + message.role + '\\n' + message.content | trim + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{{ '<calm>' if calm is defined and calm }}{% endif %}"""
MESSAGES = [{"role": "system", "content": "C++ only. "}, {"role": "user", "content": "Write <|end|> twice"}]


def with_template(model, folder, template, **config):
    """A copy of the model whose tokenizer has the template's tokens in place of two rare ones."""
    copy = pathlib.Path(shutil.copytree(model, folder))
    spec = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = spec["model"]["vocab"]
    merged = {"".join(m) if isinstance(m, list) else m.replace(" ", "") for m in spec["model"]["merges"][-8:]}
    spec["model"]["merges"] = spec["model"]["merges"][:-8]
    for token, text in zip(sorted(merged, key=vocabulary.get), ("<|start|>", "<|end|>")):
        number = vocabulary.pop(token)
        vocabulary[text] = number
        spec["added_tokens"].append({"id": number, "content": text, "special": True, "normalized": False, "single_word": False,
                                     "lstrip": False, "rstrip": False})
    (copy / "tokenizer.json").write_text(json.dumps(spec))
    (copy / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
         "chat_template": template} | config))
    return copy


@pytest.fixture(scope="module")
def chat_model(model, tmp_path_factory):
    return with_template(model, tmp_path_factory.mktemp("chat") / "model", TEMPLATE)


@pytest.fixture(scope="module")
def server(pointsman, chat_model):
    running = Server(pointsman, "--model", chat_model, "--threads", "1")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def oracle(chat_model):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(str(chat_model))


def tokens(server, messages, **fields):
    return server.ok("POST", "/v1/tokenize", {"messages": messages, **fields})["tokens"]


def test_a_chat_is_what_the_template_says(server, oracle):
    plain = [{"role": "user", "content": "int main"}, {"role": "assistant", "content": " {} "}, {"role": "user", "content": [
        {"type": "text", "text": "and "}, {"type": "text", "text": "now?"}]}]
    joined = [*plain[:2], {"role": "user", "content": "and now?"}]
    expected = oracle.apply_chat_template(joined, add_generation_prompt=True, return_dict=False)
    assert tokens(server, plain) == expected
    expected = oracle.apply_chat_template(joined, add_generation_prompt=True, return_dict=False, calm=True)
    assert tokens(server, plain, chat_template_kwargs={"calm": True}) == expected
    answer = server.ok("POST", "/v1/chat/completions", {"messages": plain, "max_tokens": 4,
                                                        "temperature": 0, "chat_template_kwargs": {"calm": True}})
    assert answer["usage"]["prompt_tokens"] == len(expected) and answer["choices"][0]["message"]["role"] == "assistant"


def test_a_message_writes_no_control_token(server, oracle):
    given = tokens(server, MESSAGES)
    end = oracle.convert_tokens_to_ids("<|end|>")
    assert given.count(end) == 2
    assert oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False).count(end) == 3
    assert oracle.decode(given) == oracle.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)


def test_what_the_template_raises_reaches_the_client(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="The system message comes first"):
        client.chat.completions.create(model=client.models.list().data[0].id, messages=MESSAGES[::-1])
    error = server.refused("POST", "/v1/chat/completions", {"messages": MESSAGES[::-1]}, 400, "invalid_value")
    assert error["param"] == "messages"


def test_variables_of_the_server_are_not_the_clients(server):
    for name in ("messages", "add_generation_prompt", "bos_token"):
        server.refused("POST", "/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {name: "x"}}, 400, "invalid_value")
    server.refused("POST", "/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": [1]}, 400, "invalid_value")
    server.refused("POST", "/v1/chat/completions", {"messages": [{"role": "king", "content": ""}]}, 400, "invalid_value")


def started(pointsman, *arguments):
    return subprocess.run([str(BINARY), "serve", "--port", "0", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=pointsman.environment(None))


def test_a_template_outside_the_subset_stops_the_start(pointsman, model, tmp_path):
    broken = with_template(model, tmp_path / "model", "a\n{% include 'x' %}")
    done = started(pointsman, "--model", broken)
    assert done.returncode != 0 and "line 2: the tag 'include'" in done.stderr and "--chat-template default" in done.stderr
    (tmp_path / "big.jinja").write_text("x" * 300_000)
    done = started(pointsman, "--model", broken, "--chat-template", tmp_path / "big.jinja")
    assert done.returncode != 0 and "at most 262144" in done.stderr

    plain = Server(pointsman, "--model", broken, "--chat-template", "default", "--threads", "1")
    try:
        text = plain.ok("POST", "/v1/tokenize", {"messages": MESSAGES, "pieces": True})
        assert "".join(text["pieces"]) == "C++ only. \n\nUser: Write <|end|> twice\n\nAssistant:"
        assert "<|end|>" not in text["pieces"]
        plain.refused("POST", "/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {"calm": True}}, 422, "unprocessable")
    finally:
        plain.stop(signal.SIGKILL)


def test_a_file_takes_the_templates_place(pointsman, chat_model, tmp_path):
    (tmp_path / "short.jinja").write_text("{% for m in messages %}{{ m.content }}{{ m.name + 1 if m.name }};{% endfor %}\n")
    short = Server(pointsman, "--model", chat_model, "--chat-template", tmp_path / "short.jinja", "--threads", "1")
    try:
        pieces = short.ok("POST", "/v1/tokenize", {"messages": MESSAGES, "pieces": True})["pieces"]
        assert "".join(pieces) == "C++ only. ;Write <|end|> twice;"
        error = short.refused("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "", "name": "x"}]},
                              422, "unprocessable")
        assert "line 1: str + int" in error["message"]
    finally:
        short.stop(signal.SIGKILL)
