#include "indexer/tasks/task_items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using ::testing::HasSubstr;

AnswerPattern Pattern(const std::string& regex = kGsm8kPattern) { return AnswerPattern::Compile(regex).value(); }

Result<TaskItem> Parse(const std::string& row, TaskKind kind, std::map<std::string, std::string> fields = {}) {
  return ParseTaskRow(row, {kind, "", std::move(fields)}, Pattern());
}

std::string Problem(const std::string& row, TaskKind kind) {
  const auto item = Parse(row, kind);
  return item.ok() ? "none" : item.error().message;
}

constexpr const char* kGsm8kRow = R"({"question": "How many?", "answer": "So 6*3=18.\n#### 1,018"})";

TEST(TaskRow, AnExactOneHasTheReferencesAnswer) {
  const auto item = Parse(kGsm8kRow, TaskKind::kExact);
  ASSERT_TRUE(item.ok()) << item.error().message;
  EXPECT_EQ(item.value().prompt, "How many?\n");
  EXPECT_EQ(item.value().answer, "1018");
  const auto named = Parse(R"({"q": "How many? ", "question": "no", "a": "$7.00"})", TaskKind::kExact,
                           {{"prompt", "q"}, {"answer", "a"}});
  ASSERT_TRUE(named.ok()) << named.error().message;
  EXPECT_EQ(named.value().prompt, "How many? ");
  EXPECT_EQ(named.value().answer, "7") << "one line without the pattern is the answer itself";
}

TEST(TaskRow, AChoiceIsNamedByIndexLetterLabelOrText) {
  const auto gold = [](const std::string& rest) {
    const auto item = Parse(R"({"prompt": "p", )" + rest + "}", TaskKind::kChoice);
    return item.ok() ? static_cast<int>(item.value().gold) : -1;
  };
  EXPECT_EQ(gold(R"("choices": ["x", "y", "z"], "answer": 2)"), 2);
  EXPECT_EQ(gold(R"("choices": ["x", "y", "z"], "answer": "1")"), 1);
  EXPECT_EQ(gold(R"("options": ["x", "y", "z"], "label": "C")"), 2);
  EXPECT_EQ(gold(R"("choices": ["x", "y", "z"], "gold": "y")"), 1);
  EXPECT_EQ(gold(R"("choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2")"), 1) << "a label first";
  EXPECT_EQ(gold(R"("choices": ["x", "y"], "answer": 2)"), -1);
  EXPECT_EQ(gold(R"("choices": ["x", "y"], "answer": "Z")"), -1);
}

TEST(TaskRow, JoinsAsIngestDoes) {
  const auto prompt = [](const std::string& text, const std::string& choices) {
    return Parse(R"({"answer": 0, "prompt": ")" + text + R"(", "choices": )" + choices + "}", TaskKind::kChoice)
        .value()
        .prompt;
  };
  EXPECT_EQ(prompt("p", R"(["a", "b"])"), "p\n");
  EXPECT_EQ(prompt("p ", R"(["a", "b"])"), "p ");
  EXPECT_EQ(prompt("p", R"([" a", " b"])"), "p");
  EXPECT_EQ(Parse(R"({"prompt": "def f():"})", TaskKind::kCode).value().prompt, "def f():");
}

TEST(TaskRow, SaysWhatIsWrong) {
  EXPECT_EQ(Problem("[1]", TaskKind::kExact), "not a JSON object");
  EXPECT_EQ(Problem(R"({"answer": "#### 1"})", TaskKind::kExact), "no prompt");
  EXPECT_EQ(Problem(R"({"prompt": "p"})", TaskKind::kExact), "no answer");
  EXPECT_EQ(Problem(R"({"prompt": "p", "answer": " "})", TaskKind::kExact), "no answer");
  EXPECT_EQ(Problem(R"({"prompt": "p", "answer": "a\nb"})", TaskKind::kExact),
            "an answer of several lines in which --answer-pattern finds nothing");
  EXPECT_EQ(Problem(R"({"prompt": "p", "choices": ["a"], "answer": 0})", TaskKind::kChoice), "fewer than two choices");
  EXPECT_EQ(Problem(R"({"prompt": "p", "choices": ["a", ""], "answer": 0})", TaskKind::kChoice), "an empty choice");
}

TEST(DetectTask, KnowsTheUsualShapes) {
  EXPECT_EQ(DetectTask(kGsm8kRow, {}, false).value().kind, TaskKind::kExact);
  EXPECT_EQ(DetectTask(kGsm8kRow, {}, false).value().answer_pattern, kGsm8kPattern);
  EXPECT_EQ(DetectTask(R"({"question": "q", "choices": [], "answer": 0})", {}, false).value().kind, TaskKind::kChoice);
  EXPECT_EQ(DetectTask(R"({"prompt": "p", "test": "t"})", {}, false).value().kind, TaskKind::kCode);
  EXPECT_EQ(DetectTask(R"({"prompt": "p"})", {}, true).value().kind, TaskKind::kCode);
  EXPECT_THAT(DetectTask(R"({"text": "t"})", {}, false).error().message, HasSubstr("say what they are with --task"));
}

TEST(TaskFields, AreParsedOrRefused) {
  const std::vector<std::string> good{"prompt=question", "choices=a=b"};
  EXPECT_EQ(ParseTaskFields(good).value().at("choices"), "a=b");
  for (const char* bad : {"prompt", "prompt=", "question=prompt", "=x"}) {
    const std::vector<std::string> pairs{bad};
    EXPECT_THAT(ParseTaskFields(pairs).error().message, HasSubstr(std::string("--task-fields ") + bad)) << bad;
  }
}

TEST(ReadTaskRows, FindsTheLinesThatDocumentsCameFrom) {
  testing::TemporaryDirectory directory;
  const std::string path = directory.path() / "a#b.jsonl";
  std::ofstream(path) << "one\n\nthree\nfour";
  std::vector<Document> documents(4);
  documents[0].source = path + "#4";
  documents[1].source = directory.path() / "notes.md";
  documents[2].source = path + "#1";
  documents[3].source = path + "#9";
  const auto rows = ReadTaskRows(documents);
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  ASSERT_EQ(rows.value().size(), 2u);
  EXPECT_EQ(rows.value()[0].text, "four");
  EXPECT_EQ(rows.value()[1].text, "one");
}

}  // namespace
}  // namespace pointsman
