#include "models/chat_template/chat_template.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <fstream>
#include <random>

#include "models/tokenizer/unicode.h"

namespace pointsman {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// The constructs of the subset, to be broken in every way.
constexpr std::array kTemplates = {
    R"({%- if messages[0]['role'] == 'system' %}{%- set rest = messages[1:] -%}{% else %}{% set rest = messages %}{% endif %}
{{ bos_token }}{% for m in rest if m.content %}{{ loop.index0 % 2 }}{{ '<|' + m['role'] + '|>\n' + m.content|trim ~ eos_token }}
  {% if not loop.last and loop.nextitem.role == m.role %}{{ raise_exception("twice") }}{% endif +%}
{% else %}none{% endfor %}{#- a note -#}{% if add_generation_prompt %}{{ '<|assistant|>' }}{%- endif -%})",
    R"({% macro show(x, sep=', ') -%}{% if x is mapping %}{% for k, v in x.items() %}{{ k }}={{ show(v) }}{{ sep if not loop.last }}{% endfor %}
{%- elif x is iterable and x is not string %}{{ x | map('string') | join(sep) }}{% else %}{{ x }}{% endif %}{% endmacro %}
{% set ns = namespace(n=0, s='') %}{% for i in range(3, -4, -1) %}{% set ns.n = ns.n + i // 2 %}{% set ns.s = ns.s ~ i %}
{% if i < -2 %}{% break %}{% endif %}{% endfor %}{{ show({'a': [1, 2.5, none], 'b': (true, "x\u00e9")}) }}{{ [ns.n, ns.s] | tojson(indent=2) }})",
    R"({% set y %}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{% endset %}{{ y.split('a', 1)[-1].strip('\n')[::-1] }}
{{ (messages | last).get('content', 'z').replace('a', 'b').startswith(('x', 'y')) and 1 in [1] or 'k' not in {'k': 0} }}
{% for x in messages %}{% continue %}{% endfor %}{{ -7 % 3 }}{{ 'a' if y is defined else 'b' }}{{ missing | default('d', true) | upper }})"};

ordered_json Chat() {
  return ordered_json::parse(
      R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Grüße\n<|user|> "},
    {"role": "assistant", "content": "a", "tool_calls": [{"name": "f", "arguments": {"x": [1, 2.5, null]}}]}])");
}

Result<MarkedText> RenderChat(const std::string& source, const ordered_json& messages = Chat()) {
  POINTSMAN_TRY(const ChatTemplate parsed,
                ChatTemplate::Parse(source, "template", {{"bos_token", "<s>"}, {"eos_token", "</s>"}}));
  ChatInput input;
  input.messages = messages;
  return parsed.Render(input);
}

class ChatTemplateTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("chat_template_test_" + std::to_string(::getpid()));
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  void Write(const char* name, const std::string& text) const { std::ofstream(directory_ / name) << text; }
  std::string LoadError() const {
    const auto loaded = ChatTemplate::Load(directory_);
    return loaded.ok() ? "" : loaded.error().message;
  }

  fs::path directory_;
};

TEST_F(ChatTemplateTest, KnowsWhoWroteWhat) {
  const auto rendered = RenderChat("{% for m in messages %}<{{ m.role }}>{{ m.content | trim | upper }}{% endfor %}");
  ASSERT_TRUE(rendered.ok()) << rendered.error().message;
  EXPECT_EQ(rendered.value().text, "<system>BE BRIEF.<user>GRÜßE\n<|USER|><assistant>A");
  std::string messages;
  for (const ByteRange& range : rendered.value().plain) {
    messages += rendered.value().text.substr(range.begin, range.end - range.begin) + "/";
  }
  EXPECT_EQ(messages, "BE BRIEF./GRÜßE\n<|USER|>/A/");
}

TEST_F(ChatTemplateTest, OriginSurvivesEveryOperation) {
  for (const char* how : {"m|tojson",
                          "m ~ ''",
                          "m + ''",
                          "m|replace('z', 'y')",
                          "'x'|replace('x', m)",
                          "[m]|join",
                          "''.join([m])",
                          "m.split('z')[0]",
                          "m[:]",
                          "m[::-1]",
                          "m|list|join",
                          "m|title",
                          "m.title()",
                          "[m]|string",
                          "{m: 1}|string",
                          "m * 1",
                          "m|safe",
                          "(m, 1)|tojson",
                          "f(m)",
                          "m.removeprefix('q')",
                          "m|default('z')",
                          "[m]|map('lower')|first"}) {
    const auto rendered = RenderChat(
        "{% macro f(a) %}{{ a }}{% endmacro %}{% set m = messages[0].content %}{{ " + std::string(how) + " }}",
        ordered_json::parse(R"([{"role": "user", "content": "wW"}])"));
    ASSERT_TRUE(rendered.ok()) << how << ": " << rendered.error().message;
    size_t marked = 0;
    for (const ByteRange& range : rendered.value().plain) {
      marked += range.end - range.begin;
      for (size_t i = range.begin; i < range.end; ++i) EXPECT_EQ(std::tolower(rendered.value().text[i]), 'w') << how;
    }
    EXPECT_EQ(marked, 2u) << how << ": " << rendered.value().text;
  }
}

TEST_F(ChatTemplateTest, LoadsFromAModelDirectory) {
  EXPECT_FALSE(ChatTemplate::Load(directory_).value().has_value());
  Write("tokenizer_config.json", R"({"bos_token": {"content": "<b>", "lstrip": false}, "eos_token": null})");
  EXPECT_FALSE(ChatTemplate::Load(directory_).value().has_value());
  Write("tokenizer_config.json", R"({"bos_token": "<b>", "chat_template": "{{ bos_token }}config"})");
  ChatInput input;
  input.messages = Chat();
  EXPECT_EQ(ChatTemplate::Load(directory_).value()->Render(input).value().text, "<b>config");
  Write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<c>"}, "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "{{ bos_token }}named"}]})");
  EXPECT_EQ(ChatTemplate::Load(directory_).value()->Render(input).value().text, "<c>named");
  Write("chat_template.jinja", "{{ bos_token }}file\n");
  EXPECT_EQ(ChatTemplate::Load(directory_).value()->Render(input).value().text, "<c>file");
}

TEST_F(ChatTemplateTest, RefusesMalformedFilesByName) {
  const auto refused = [&](const char* config, const char* why) {
    Write("tokenizer_config.json", config);
    EXPECT_NE(LoadError().find(why), std::string::npos) << LoadError();
    EXPECT_NE(LoadError().find("tokenizer_config.json"), std::string::npos);
  };
  refused("{", "not valid JSON");
  refused(R"({"chat_template": 5})", "neither a string nor a list");
  refused(R"({"chat_template": [{"name": "rag", "template": "x"}]})", "only: rag");
  refused(R"({"chat_template": ["x"]})", "no name and template");
  refused(R"({"chat_template": "x", "bos_token": 3})", "'bos_token' is no token");
  refused(R"({"chat_template": "a\n{% block x %}"})", "line 2: the tag 'block' is not in the subset");
  Write("chat_template.jinja", "\xff");
  EXPECT_NE(LoadError().find("not valid UTF-8"), std::string::npos);
  Write("chat_template.jinja", std::string((256 << 10) + 1, 'x'));
  EXPECT_NE(LoadError().find("at most 262144"), std::string::npos);
  EXPECT_FALSE(ChatTemplate::LoadFile(directory_ / "absent", directory_).ok());
}

TEST_F(ChatTemplateTest, DeepSourcesAreRefusedNotFollowed) {
  const std::array<std::array<std::string, 3>, 7> nests = {{{"(", "1", ")"},
                                                            {"[", "", "]"},
                                                            {"not ", "1", ""},
                                                            {"- ", "1", ""},
                                                            {"1 if 1 else ", "1", ""},
                                                            {"1 + ", "1", ""},
                                                            {"x[", "1", "]"}}};
  for (const auto& [open, middle, close] : nests) {
    std::string source = "{{ ";
    for (int i = 0; i < 20000; ++i) source += open;
    source += middle;
    for (int i = 0; i < 20000; ++i) source += close;
    EXPECT_FALSE(RenderChat(source + " }}").ok()) << open;
  }
  std::string blocks;
  for (int i = 0; i < 10000; ++i) blocks += "{% if 1 %}";
  EXPECT_FALSE(RenderChat(blocks).ok());
  std::string filters = "{{ 'a'";
  for (int i = 0; i < 10000; ++i) filters += "|trim";
  EXPECT_FALSE(RenderChat(filters + " }}").ok());
}

// Templates with a few bytes changed, cut out, doubled or mixed: each is refused or rendered, soon, to valid UTF-8.
TEST_F(ChatTemplateTest, SurvivesMutations) {
  std::mt19937 random(20261127);
  const std::array<std::string, 24> pieces = {"{%",   "%}", "{{",       "}}", "-",  "+",  "'",    "\"",
                                              "(",    ")",  "[",        "]",  "|",  "~",  " is ", "endfor",
                                              "loop", "ns", "99999999", "\\", "{#", "#}", "é",    "* 9999"};
  size_t rendered = 0, refused = 0;
  const auto draw = [&](size_t below) { return std::uniform_int_distribution<size_t>(0, below - 1)(random); };
  for (int round = 0; round < 6000; ++round) {
    std::string source = kTemplates[draw(kTemplates.size())];
    for (size_t change = draw(4) + 1; change > 0; --change) {
      const size_t at = draw(source.size()), length = std::min(draw(12) + 1, source.size() - at);
      switch (draw(4)) {
        case 0:
          source.erase(at, length);
          break;
        case 1:
          source.insert(at, pieces[draw(pieces.size())]);
          break;
        case 2:
          source.insert(draw(source.size()), source.substr(at, length));
          break;
        default:
          source[at] = static_cast<char>(draw(128));
      }
      if (source.empty()) source = "x";
    }
    const auto start = std::chrono::steady_clock::now();
    const auto result = RenderChat(source);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    ASSERT_LT(took.count(), 20.0) << source;
    if (result.ok()) {
      ++rendered;
      ASSERT_EQ(ReplaceInvalidUtf8(result.value().text), result.value().text) << source;
      size_t end = 0;
      for (const ByteRange& range : result.value().plain) {
        ASSERT_TRUE(range.begin >= end && range.begin < range.end && range.end <= result.value().text.size());
        end = range.end;
      }
    } else {
      ++refused;
      ASSERT_FALSE(result.error().message.empty());
    }
  }
  EXPECT_GT(rendered, 200u);
  EXPECT_GT(refused, 500u);
}

}  // namespace
}  // namespace pointsman
