"""The C++ chat templates against transformers' apply_chat_template: the same text, byte for byte, or an error in both.

test_chat_template_random.py has random templates, test_chat_tokens.py what becomes of control tokens.
"""

import itertools

import pytest

from chat_templates import CHATS, FAMILIES, TOOLS, assert_same, oracle, program  # noqa: F401


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, prompt, oracle, program):
    rendered = 0
    for chat, extra in itertools.product(CHATS, [{}, {"tools": TOOLS}, {"enable_thinking": False}, {"reasoning_effort": "low"}]):
        rendered += "text" in assert_same(oracle, program, FAMILIES[family], chat, prompt, **extra)
    assert rendered >= 16


def test_what_a_template_raises_is_told(program):
    answer = program(FAMILIES["mixtral"], [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert answer == {"error": "Roles must alternate: user at 2", "when": "raised"}


# One construct each; `messages` is CHATS[2].
PIECES = [
    "{{ 1 + 2 * 3 - 4 // 3 % 2 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 % -2 }} {{ -(3) }} {{ +true }} {{ 2 * 'ab' }}",
    "{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) }} {{ () }} {{ 1, 2 }}",
    "{{ none }} {{ true }} {{ [none, 'it\\'s', \"q\\\"\", 'both\\'\"', '\\n\\t\\\\ é \\x00 \\u200b'] }} {{ {'a': {'b': (1, 'x')}} }}",
    "{{ 1e100 }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 1.5e-5 }} {{ 1_000 }}",
    "{{ 'x' ~ 1 ~ none ~ [1] ~ missing }}|{{ missing }}|{{ missing is defined }}|{{ missing.deeper is defined if missing else 'no' }}",
    "{{ missing.deeper }}",
    "{{ missing + 1 }}",
    "{{ none + 1 }}",
    "{{ 'a' + 1 }}",
    "{{ messages[9].role }}",
    "{{ 1 / 0 }}",
    "{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[5] }}{{ 'αβγδ'[1:3] }}{{ 'αβγδ'[::-2] }}{{ [1,2,3,4][-3:-1] }}{{ [1,2][5:] }}{{ (1,2,3)[1:] }}",
    "{{ 'abc'['x'] }}{{ [1]['x'] }}{{ none.x }}{{ {'a': 1}['b'] }}{{ {'a': 1}.a }}{{ [[5]].0.0 }}",
    "{{ 'a' in 'cat' }} {{ 1 in [1] }} {{ 'k' in {'k': 1} }} {{ 'z' not in 'cat' }} {{ 'x' in missing }}",
    "{{ 1 in 'cat' }}",
    "{{ 'x' in none }}",
    "{{ not true or false and true }} {{ '' or 'b' }} {{ 'a' and 'b' }} {{ 1 if false }}|{{ 'a' if 1 else 'b' if 2 else 'c' }}",
    "{{ '  x '|trim }}|{{ 'xxax'|trim('x') }}|{{ 'ABC'|lower }}|{{ 'abc'|upper }}|{{ 'aBC d'|capitalize }}|{{ 'it is (a) b-c d_e'|title }}",
    "{{ [1, 'a', none]|join(', ') }}|{{ 'abc'|join('-') }}|{{ missing|join }}|{{ [1,2,3]|length }}{{ 'äö'|count }}{{ missing|length }}",
    "{{ missing|default('d') }}{{ ''|default('d') }}{{ ''|default('d', true) }}{{ ''|d('e', boolean=true) }}{{ none|default(1) }}",
    ("{{ {'b': [1, 2.5, true, none, 'ü\\n\\x7f\"'], 'a': {}}|tojson }} {{ {'b': 1, 'a': [1, []]}|tojson(indent=2) }}"
     " {{ {'b': 1, 'a': 'é😀'}|tojson(sort_keys=true, ensure_ascii=true) }} {{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}"),
    "{{ missing|tojson }}",
    "{{ none|length }}",
    "{{ 5|list }}",
    "{{ none|items|list }}",
    "{% for x in none %}{% endfor %}",
    "{{ [3,1]|first }}{{ [3,1]|last }}{{ []|first }}{{ 'xy'|last }}{{ {'k': 1}|first }}",
    ("{{ [3,1]|reverse|list }}{{ 'abc'|reverse }}{{ 'ab'|list }}{{ {'k': 1}|list }}{{ 'a.b'|replace('.', '-') }}"
     "{{ 'aaa'|replace('a', 'b', 2) }}{{ 5|string + '!' }}"),
    ("{{ messages|map(attribute='role')|join(',') }}{{ messages|selectattr('role', '==', 'user')|list|length }}"
     "{{ messages|rejectattr('name')|list|length }}{{ [1,2,3]|select('odd')|list }}{{ [0,1,'']|select|list }}"
     "{{ ['a ', ' b']|map('trim')|list }}{{ [1,2]|reject('in', [2])|list }}{{ [{'a': {'b': 3}}]|map(attribute='a.b')|list }}"
     "{{ [{}]|map(attribute='x', default='y')|list }}"),
    ("{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ ' a  b c '.split(none, 1) }}"
     "{{ 'a--b--c'.rsplit('--', 1) }}{{ ''.split(',') }}{{ ''.split() }}"),
    ("{{ 'xxaxx'.strip('x') }}{{ '  a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}"
     "{{ 'Abc'.upper() }}{{ 'ABc'.lower() }}{{ 'aB c'.title() }}{{ 'aB'.capitalize() }}{{ 'aXbX'.replace('X', '-') }}"
     "{{ '-'.join(['a', 'b']) }}{{ 'äab'.find('b') }}{{ 'aaa'.count('a') }}{{ 'prex'.removeprefix('pre') }}"
     "{{ 'prex'.removesuffix('x') }}"),
    "{{ '-'.join([1]) }}",
    "{{ 'a'.split('') }}",
    ("{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('b', 2) }}{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}"
     "{% endfor %}{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }}{{ {'a': 1}.items()|length }}"),
    ("{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}"
     "{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}"),
    "{% for i in range(10, 0, -3) if i != 7 %}{{ i }}{{ loop.last }}{{ loop.length }} {% endfor %}{{ range(5)[2] }}{{ range(2)|list }}",
    ("{% set ns = namespace(n=0, stop=false) %}{% for i in range(9) if not ns.stop %}{{ i }}{% if i == 4 %}{% set ns.stop = true %}"
     "{% endif %}{% endfor %}"),
    ("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}"
     "{{ x }}"),
    "{% for a, b in [(1, 2), 'xy'] %}{{ a }}{{ b }}{% endfor %}{% set p, q = [1, 2] %}{{ p }}{{ q }}",
    "{% for a, b in [(1,)] %}{% endfor %}",
    ("{% for i in [] %}x{% else %}empty{% endfor %}{% for i in [1] %}{% continue %}{% else %}odd{% endfor %}{% for i in [1, 2, 3] %}"
     "{{ i }}{% if i == 2 %}{% break %}{% endif %}{% endfor %}"),
    "{% macro m(a, b='B', c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}{{ m(1)|length }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{{ m(1) }}{% macro m(a) %}{{ a }}{% endmacro %}",
    ("{% macro down(n) %}{{ n }}{% if n > 0 %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(5) }}{% set y = 1 %}{% macro r() %}"
     "{{ y }}{% endmacro %}{% set y = 2 %}{{ r() }}"),
    "{% for i in [1] %}{% macro inner() %}{{ i }}{% endmacro %}{{ inner() }}{% endfor %}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{% set ns.c = ns.a + ns.b %}{{ ns.c }}{{ dict(a=1) }}",
    "{% set nope = {} %}{% set nope.x = 1 %}",
    ("{{ 1 is odd }}{{ 2 is even }}{{ 4 is divisibleby 2 }}{{ 4 is divisibleby(3) }}{{ 1 is number }}{{ true is number }}"
     "{{ true is integer }}{{ 1 is integer }}{{ 1.0 is float }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}"
     "{{ 'a' is sequence }}{{ 1 is iterable }}{{ none is none }}{{ none is not none }}{{ true is true }}{{ 1 is true }}"
     "{{ false is false }}{{ true is boolean }}{{ 1 is eq 1 }}{{ 2 is gt 1 }}{{ 'a' is in ['a'] }}{{ missing is undefined }}"
     "{{ missing is iterable }}{{ messages is defined and tools is none }}"),
    "{{ range is defined }}{{ bos_token is defined }}{{ cls_token is defined }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\n  c {% if true %} d{% endif %}\n e\n",
    "a  {%- if true -%}  b  {%+ endif %}  \n  {%+ if true %}c{% endif +%}\n d {{- 'e' -}}  \n\n f {#- x -#}  g\n   {# y #}\nh {# z +#}\ni",
    "{{ 'a' -}}\n   {% if true %}b{% endif %}\n\n",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n\n",
    "a\r\nb\rc{{ '\r\n' }}\r\n",
    "  {% if true %}x{% endif %}",
    "{% if true %}\n\n  x\n{% endif %}   \n",
    "{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ '%}' }}{% if '%}' %}y{% endif %}{{ \"{{\" }}",
    "{{ 'adjacent' \" strings\" }}{{ '\\u00e9\\x41\\101\\q\\\n' }}{{ 'line\nbreak' }}",
    "{#{# nested #}{{ '#}' }}",
    "{{ 1 }}{ {{ 2 }}} {%- if 1 %} } {% endif -%} { %}",
    ("{{ -1|string }}{{ 'a'|upper ~ 'b' }}{{ ('a' ~ 'b')|upper }}{{ not 1 == 2 }}{{ 1 + 1 ~ 1 + 1 }}{{ [1, 2][0] is odd }}"
     "{{ 'x' is string and 1 is not string }}{{ 'a' if 'a' is defined else 'b' }}"),
    "{% set m = messages|map(attribute='content')|list %}{{ m[0] is string }}{{ (m + ['x'])|last }}{{ m|tojson }}",
    "{% set t %}a{{ 1 }}{% set inner = 5 %}{% endset %}{{ t }}{{ inner is defined }}",
    "{{ x|safe }}{{ [1]|tojson|safe }}{{ 'a'|safe ~ '<' }}{% set s = '<'|safe %}{{ s }}{{ s is string }}{{ s == '<' }}",
    "{{ messages[0] }}{{ messages[0].content is none }}{{ messages[-1]['content']|tojson }}",
    "{{ raise_exception('stop') }}",
    "{{ messages[1:][0].role }}{{ messages[::2]|length }}{{ messages[:-1]|length }}{{ missing[1:] }}",
    "{% set n = none %}{{ n[1:] }}",
    "{{ messages[0].role[none:] }}{{ messages[0][1:] }}",
    "{{ [1][::0] }}",
    ("{% for k in {'x': 1, 'y': 2} %}{{ k }}{% endfor %}{% for c in 'añ' %}[{{ c }}]{% endfor %}{% for x in missing %}{{ x }}{% else %}"
     "none{% endfor %}"),
    "{% for m in messages %}{% set outer = loop %}{% for n in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{{ {'a': 1, 'a': 2} }}{{ {'a': 1} == {'a': 1.0} }}{{ [1] == (1,) }}{{ 'a' == 1 }}{{ missing == missing }}{{ missing == none }}",
    "{% generation %}{% set z = 1 %}x{% endgeneration %}{{ z is defined }}",
    "{{ loop is defined }}{% for i in [1] %}{% for j in [] %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("piece", range(len(PIECES)))
def test_pieces(piece, oracle, program):
    assert_same(oracle, program, PIECES[piece], CHATS[2], True)


REFUSED = {
    "{% include 'x' %}": "the tag 'include'",
    "{% raw %}{% endraw %}": "'raw'",
    "{% call m() %}{% endcall %}": "the tag 'call'",
    "{% with a = 1 %}{% endwith %}": "the tag 'with'",
    "\n\n{% filter upper %}{% endfilter %}": "line 3: the tag 'filter'",
    "{{ 1|pprint }}": "the filter 'pprint'",
    "{{ 1|selectattr('a', 'callable') }}": "the test 'callable'",
    "{{ 1 is callable }}": "the test 'callable'",
    "{{ 'a'.format(1) }}": "the method 'format'",
    "{{ [].append(1) }}": "the method 'append'",
    "{{ x.__class__ }}": "the attribute '__class__'",
    "{{ strftime_now('%Y') }}": "the name 'strftime_now'",
    "{{ f(1) }}": "'f' is called",
    "{{ lipsum() }}": "the name 'lipsum'",
    "{{ 2 ** 3 }}": "the operator '**'",
    "{{ m(*a) }}": "the argument '*'",
    "{% for a in b recursive %}{% endfor %}": "'recursive'",
    "{% set ns._x = 1 %}": "begins with _",
    "{{ 'a'": "without its",
    "{# a": "comment",
    "{% if 1 %}": "'endif' expected",
    "{% endif %}": "without its beginning",
    "{{ }}": "an expression expected",
    "{{ 'a }}": "string without its end",
    "{% break %}": "outside a loop",
    "{{ (((((((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))))))))))) }}": "nested deeper",
    "{% set loop = 1 %}": "cannot be assigned",
    "{{ a ! b }}": "unexpected character",
    "{{ x[1, 2] }}": "several parts",
    "{{ ] }}": "unexpected ']'",
    "{{ ''.join() }}": "needs 1 arguments",
    "{{ 1|trim(1, 2) }}": "takes at most 1",
    "{{ 1|tojson(html=1) }}": "the argument 'html'",
    "{{ (1)(2) }}": "only names and methods",
    "{{ self.x }}": "the name 'self'",
}


@pytest.mark.parametrize("template", REFUSED)
def test_what_is_outside_is_refused_by_name(template, program):
    answer = program(template, CHATS[0])
    assert answer.get("when") == "read" and REFUSED[template] in answer["error"], answer


LIMITS = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "too many steps",
    "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}": "longer than 8 MiB",
    "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}": "longer than 8 MiB",
    "{{ range(1000000000) }}": "a range of more",
    "{{ 'x' * 999999999999 }}": "longer than 8 MiB",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "too deep",
    "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}": "nested deeper",
    ("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}"
     "{{ ns.x|tojson }}"): "too many steps",
    "{% set s = 'x' * 8000000 %}{% for i in range(9999) %}{% set t = s ~ '' %}{% endfor %}": "too many steps",
    "{{ 9223372036854775807 + 1 }}": "number",
    "{{ 999999999999999999 * 999999999999999999 }}": "beyond 64 bits",
}


@pytest.mark.parametrize("template", LIMITS)
def test_limits(template, program):
    answer = program(template, CHATS[0])
    assert "error" in answer and LIMITS[template] in answer["error"], answer
