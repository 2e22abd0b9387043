"""What the tests of chat templates share: templates of the families, chats, transformers as the oracle, and our program.

The templates of the families are written for these tests: they use the constructs of the models' own, not their text.
Needs the program pointsman_chat (POINTSMAN_BINARY_DIR, default build/release).
"""

import json
import os
import pathlib
import subprocess

import pytest
from tokenizers import Tokenizer, models

transformers = pytest.importorskip("transformers")

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("POINTSMAN_BINARY_DIR", ROOT / "build" / "release")) / "pointsman_chat"
EXAMPLES = int(os.environ.get("POINTSMAN_EXAMPLES", "400"))

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

FAMILIES = {
    # Plain role headings with the end-of-text token behind answers, as OLMoE and Tulu have them.
    "tulu": """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + '\n' }}
{% elif message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + '\n' }}
{% elif message['role'] == 'assistant' %}
{% if not loop.last %}
{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}
{% else %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% endif %}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}
{% endfor %}
""",
    # ChatML with a system message of its own, as the first Qwen mixtures have it.
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
              "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
              "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # A namespace set from a loop over the messages backwards, thoughts cut out of older answers, tool calls.
    "qwen3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string
           and not (message.content.startswith('<answer>') and message.content.endswith('</answer>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if call.function %}
                    {%- set call = call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
                {%- if call.arguments is string %}
                    {{- call.arguments }}
                {%- else %}
                    {{- call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<answer>\\n' + content + '\\n</answer>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    # Alternating roles are insisted upon, as in Mixtral.
    "mixtral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: ' + message['role'] ~ ' at ' ~ loop.index) }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
""",
    # A default for a variable that may be missing, everything in one line: DeepSeek-V2.
    "deepseek": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
                "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
                "{{ 'User: ' + message['content'] + '\n\n' }}{% elif message['role'] == 'assistant' %}"
                "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}"
                "{{ message['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    # Macros that call themselves, parameters with defaults, comments, channels: gpt-oss and Qwen3-Coder.
    "macros": """{#- Types of parameters, written as a language's. -#}
{%- macro type_of(spec, required=[], nullable=false) -%}
    {%- if spec.type == "array" -%}
        {%- if spec['items'] -%}
            {{- type_of(spec['items'], required) + "[]" }}
        {%- else -%}
            any[]
        {%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type[0] is defined -%}
        {{- spec.type | join(" | ") -}}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{\\n" -}}
        {%- for name, inner in spec.properties.items() -%}
            {{- "  " ~ name -}}
            {%- if name not in (spec.required or required) -%}?{%- endif -%}
            {{- ": " -}}{{ type_of(inner, nullable=inner.nullable) }}
            {%- if not loop.last -%}{{- "," -}}{%- endif -%}
            {{- "\\n" -}}
        {%- endfor -%}
        {{- "}" -}}
    {%- elif spec.enum -%}
        {{- '"' + spec.enum|join('" | "') + '"' -}}
    {%- else -%}
        {{- spec.type | default("any") -}}
    {%- endif -%}
    {%- if nullable -%}{{- " | null" -}}{%- endif -%}
{%- endmacro -%}
{%- macro heading(role, channel='') -%}
<|start|>{{ role }}{% if channel %}<|channel|>{{ channel }}{% endif %}<|message|>
{%- endmacro -%}
{%- set ns = namespace(last_tool=none, count=0) -%}
{{- heading("system") + "Reasoning: " + (reasoning_effort if reasoning_effort is defined else "medium") }}<|end|>
{%- if messages[0].role in ["system", "developer"] -%}
    {%- set instructions = messages[0].content -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set instructions = "" -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- if instructions or tools -%}
    {{- heading("developer") + instructions }}
    {%- for tool in tools or [] %}
        {%- set fn = tool.function if tool.function else tool %}
        {{- "\\n// " + (fn.description or '') + "\\ntype " + fn.name + " = " + type_of(fn.parameters) }}
    {%- endfor %}
    {{- "<|end|>" }}
{%- endif %}
{%- for message in rest %}
    {%- if message.role == 'assistant' %}
        {%- if "tool_calls" in message %}
            {%- set ns.last_tool = message.tool_calls[0].function.name %}
            {{- heading("assistant", "commentary") + message.tool_calls[0].function.arguments|tojson }}<|call|>
        {%- elif loop.last and not add_generation_prompt %}
            {{- heading("assistant", channel="final") ~ message.content }}<|return|>
        {%- else %}
            {{- heading("assistant", "final") ~ message.content }}<|end|>
            {%- set ns.last_tool = none %}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {%- if ns.last_tool is none %}
            {{- raise_exception("A tool's answer without a call before it") }}
        {%- endif %}
        {{- heading("functions." + ns.last_tool) + message.content|tojson }}<|end|>
    {%- else %}
        {%- set ns.count = ns.count + 1 %}
        {{- heading(message.role) + message.content }}<|end|>
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}""",
    # Items of a mapping, a set block, loop.previtem and nextitem, break and continue, a generation block.
    "mixed": """{% set shout %}
  {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length }} questions
{% endset %}
{{ shout | trim | upper }}
{% for key, value in {'b': 1, 'a': [true, none, 2.5]} | items %}
{{ loop.index }}/{{ loop.length }} {{ key }}={{ value }};
{% endfor %}
{% for message in messages if message.content %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
  {% if loop.previtem is defined and loop.previtem.role == message.role %}again {% endif %}
{{ message.role | capitalize }}: {% generation %}{{ message.content | replace("\\n", " ") }}{% endgeneration %}
{{ '' if loop.nextitem is undefined else ' ->' }}
    {% if loop.index > 3 %}{% break %}{% endif %}
{% else %}
nothing
{% endfor %}
{{ (messages | last).content[:3] ~ (messages | first)['content'][-2:] }}{# the end #}
""",
}

CHATS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": " Line one\nLine two  \n"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "α β 👍🏽"},
     {"role": "assistant", "content": " <think>\nhm\n</think>\n\nYes "}, {"role": "user", "content": "'quotes' \"and\" \\ <b>&amp;"}],
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
     {"role": "user", "content": "3"}, {"role": "assistant", "content": "4"}],
    [{"role": "assistant", "content": "first"}, {"role": "user", "content": "second"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "developer", "content": "c"}],
    [{"role": "user", "content": "weather?"},
     {"role": "assistant", "content": "", "tool_calls": [
         {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "exact": None}}},
         {"function": {"name": "time", "arguments": "{\"zone\": 1}"}}]},
     {"role": "tool", "content": "{\"rain\": true}"}, {"role": "tool", "content": "12:00"}, {"role": "assistant", "content": "wet"}],
    [{"role": "tool", "content": "alone"}],
    [{"role": "user", "content": [{"type": "text", "text": "part"}]}],
    [{"role": "user"}],
    [{"role": "user", "content": None, "extra": [1, 2.0, 1e20, 1e-7, -0.0, True, {"k": "v'\"\n"}]}],
]

TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Tells the <weather>.", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "hours": {"type": "array", "items": {"type": "integer"}},
            "either": {"type": ["string", "null"]}, "any": {"nullable": True}}}}}]


def plain_tokenizer():
    tokenizer = Tokenizer(models.BPE(vocab={"<unk>": 0}, merges=[], unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


@pytest.fixture(scope="module")
def oracle():
    tokenizer = plain_tokenizer()

    def render(template, messages, add_generation_prompt=False, **variables):
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False,
                                             add_generation_prompt=add_generation_prompt, **variables)
    return render


class Program:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def __call__(self, template, messages, add_generation_prompt=False, **variables):
        case = {"template": template, "messages": messages, "add_generation_prompt": add_generation_prompt,
                "special_tokens": SPECIAL, "variables": variables}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(30) == 0


@pytest.fixture(scope="module")
def program():
    running = Program()
    yield running
    running.stop()


def assert_same(oracle, program, template, messages, *given, allowed=(), **variables):
    """Equal text, or an error in both; ours may also refuse with one of the words `allowed`."""
    ours = program(template, messages, *given, **variables)
    try:
        expected = oracle(template, messages, *given, **variables)
    except Exception as error:  # the oracle's own errors are of many kinds
        assert "error" in ours, f"transformers: {error!r}\nours: {ours}\n{template}"
        return ours
    if "error" in ours and any(word in ours["error"] for word in allowed):
        return ours
    assert ours.get("text") == expected, f"{ours}\n{template}"
    return ours
