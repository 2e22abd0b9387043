#include "daemon/api/job_requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "daemon/api/testing/api_parts.h"

namespace pointsman {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::Not;

// A server whose clients may build below one folder from texts below another.
class JobRequestsTest : public ::testing::Test {
 protected:
  JobRequestsTest() {
    std::filesystem::create_directories(folder_.path() / "texts/deep");
    std::ofstream(folder_.path() / "texts/deep/a.md") << "text";
    std::filesystem::create_symlink("/etc", folder_.path() / "texts/away");
    DaemonOptions options;
    options.memory_root = folder_.path() / "memories";
    options.corpus_root = folder_.path() / "texts";
    parts_ = std::make_unique<testing::ApiParts>(options);
  }
  std::string At(const std::string& below) const { return (folder_.path() / below).string(); }
  JobSpec Good(const json& body) {
    auto job = BuildJobOf(*parts_->context, admin_, body);
    if (const auto* error = std::get_if<ApiError>(&job)) {
      ADD_FAILURE() << error->message;
      return {};
    }
    return std::get<JobSpec>(std::move(job));
  }
  void ExpectError(const json& body, ApiCode code, const std::string& param, const std::string& words) {
    const auto job = BuildJobOf(*parts_->context, admin_, body);
    const auto* error = std::get_if<ApiError>(&job);
    ASSERT_NE(error, nullptr) << body;
    EXPECT_EQ(error->code, code) << error->message;
    EXPECT_EQ(error->param, param) << error->message;
    EXPECT_NE(error->message.find(words), std::string::npos) << error->message;
  }

  testing::TemporaryDirectory folder_;
  std::unique_ptr<testing::ApiParts> parts_;
  const Principal admin_{.name = "admin", .access = Access::kAdmin};
};

TEST_F(JobRequestsTest, ABuildIsOneCommandLineOfWholeWords) {
  const JobSpec job = Good({{"out", "notes"},
                            {"paths", {"deep/a.md"}},
                            {"kind", "entries"},
                            {"max_tokens", 5000},
                            {"no_text", true},
                            {"output_memory", false},
                            {"layers", "1,2"}});
  EXPECT_EQ(job.arguments.at(0), "build");
  EXPECT_EQ(job.target, At("memories/notes"));
  EXPECT_EQ(job.memory, "notes");
  EXPECT_TRUE(job.only_one);
  for (const std::string& word :
       {std::string("--kind=entries"), std::string("--max-tokens=5000"), std::string("--no-text"),
        std::string("--layers=1,2"), "--out=" + At("memories/notes"), std::string("--resume"), At("texts/deep/a.md")}) {
    EXPECT_THAT(job.arguments, Contains(word));
  }
  EXPECT_THAT(job.arguments, Not(Contains("--output-memory")));
}

TEST_F(JobRequestsTest, TextsBecomeUploadsWhoseNamesTheServerChooses) {
  const JobSpec job =
      Good({{"out", "notes"},
            {"corpus",
             {{{"name", "../../etc/passwd"}, {"text", "a"}}, {{"name", "-x y"}, {"text", "b"}}, {{"text", "c"}}}}});
  ASSERT_EQ(job.uploads.size(), 3u);
  EXPECT_EQ(job.uploads[0].first, "000001-passwd");
  EXPECT_EQ(job.uploads[1].first, "000002--x_y");
  EXPECT_EQ(job.uploads[2].first, "000003-text.txt");
  EXPECT_EQ(job.uploads[2].second, "c");
  EXPECT_THAT(job.arguments, Contains(std::string(JobRunner::kUploads)));
}

TEST_F(JobRequestsTest, GroupsAreOneWordForEachOfTheirPaths) {
  const JobSpec job =
      Good({{"out", "notes"},
            {"groups", {{{"name", "a b"}, {"paths", {"deep", "deep/a.md"}}}, {{"name", "-c"}, {"paths", {"deep"}}}}}});
  for (const std::string& word :
       {"--group=a b=" + At("texts/deep"), "--group=a b=" + At("texts/deep/a.md"), "--group=-c=" + At("texts/deep")}) {
    EXPECT_THAT(job.arguments, Contains(word));
  }
  EXPECT_THAT(job.arguments, Not(Contains("--corpus")));
  const auto group = [](const char* name, const char* path) -> json { return {{{"name", name}, {"paths", {path}}}}; };
  ExpectError({{"out", "n"}, {"groups", group("a", "../memories")}}, ApiCode::kInvalidValue, "groups[0].paths",
              "no path below");
  ExpectError({{"out", "n"}, {"groups", group("a\nb", "deep")}}, ApiCode::kInvalidValue, "groups[0].name", "ASCII");
  ExpectError({{"out", "n"}, {"groups", json::array()}}, ApiCode::kInvalidValue, "groups", "1 to 16");
}

TEST_F(JobRequestsTest, TextsOfAGroupAreUploadsInAFolderOfTheirOwn) {
  const json a = {{"name", "a"}, {"corpus", {{{"name", "../x.md"}, {"text", "first"}}, {{"text", "second"}}}}};
  const json b = {{"name", "b"}, {"paths", {"deep"}}}, c = {{"name", "c"}, {"corpus", {{{"text", "third"}}}}};
  const JobSpec job = Good({{"out", "notes"}, {"groups", {a, b, c}}});
  ASSERT_EQ(job.uploads.size(), 3u);
  EXPECT_EQ(job.uploads[0].first, "group-1/000001-x.md");
  EXPECT_EQ(job.uploads[1].first, "group-1/000002-text.txt");
  EXPECT_EQ(job.uploads[2].first, "group-3/000003-text.txt");
  for (const std::string& word : {std::string("--group=a=uploads/group-1"), "--group=b=" + At("texts/deep"),
                                  std::string("--group=c=uploads/group-3")}) {
    EXPECT_THAT(job.arguments, Contains(word));
  }
  json both = c;
  both["paths"] = {"deep"};
  ExpectError({{"out", "n"}, {"groups", {both}}}, ApiCode::kInvalidValue, "groups[0].paths", "one of");
  ExpectError({{"out", "n"}, {"groups", {a, {{"name", "b"}, {"corpus", {{{"name", "x"}}}}}}}}, ApiCode::kInvalidValue,
              "groups[1].corpus[0].text", "required");
}

TEST_F(JobRequestsTest, NoPathLeadsOutOfItsFolder) {
  const json text = {{{"text", "a"}}};
  for (const char* out : {"../notes", "/tmp/notes", "a/../../b", "."}) {
    ExpectError({{"out", out}, {"corpus", text}}, ApiCode::kInvalidValue, "out", "below the server's memory root");
  }
  for (const char* path : {"../memories", "/etc/passwd", "away/passwd"}) {
    ExpectError({{"out", "notes"}, {"paths", {path}}}, ApiCode::kInvalidValue, "paths", "no path below");
  }
  ExpectError({{"out", "notes"}, {"paths", {"missing.md"}}}, ApiCode::kInvalidValue, "paths", "is not there");
}

TEST_F(JobRequestsTest, ValuesAreCheckedBeforeACommandSeesThem) {
  const json text = {{{"text", "a"}}};
  ExpectError({{"out", "n"}, {"corpus", text}, {"layers", "1 --out=/x"}}, ApiCode::kInvalidValue, "layers",
              "auto, all");
  ExpectError({{"out", "n"}, {"corpus", text}, {"jsonl_fields", {"a b"}}}, ApiCode::kInvalidValue, "jsonl_fields",
              "letters, digits");
  ExpectError({{"out", "n"}, {"corpus", text}, {"kind", "best"}}, ApiCode::kInvalidValue, "kind", "entries");
  ExpectError({{"out", "n"}, {"corpus", text}, {"paths", {"deep"}}}, ApiCode::kInvalidValue, "corpus", "one of");
  ExpectError({{"out", "n"}}, ApiCode::kInvalidValue, "corpus", "one of");
  ExpectError({{"corpus", text}}, ApiCode::kInvalidValue, "out", "required");
  ExpectError({{"out", "n"}, {"corpus", text}, {"model", "/x"}}, ApiCode::kInvalidValue, "model", "unknown field");
}

TEST_F(JobRequestsTest, AConfinedKeyBuildsItsOwnMemoriesAlone) {
  const Principal tenant{.name = "tenant", .access = Access::kAdmin, .memories = std::set<std::string>{"mine"}};
  const json text = {{{"text", "a"}}};
  EXPECT_TRUE(
      std::holds_alternative<JobSpec>(BuildJobOf(*parts_->context, tenant, {{"out", "mine"}, {"corpus", text}})));
  const auto other = BuildJobOf(*parts_->context, tenant, {{"out", "other"}, {"corpus", text}});
  ASSERT_TRUE(std::holds_alternative<ApiError>(other));
  EXPECT_EQ(std::get<ApiError>(other).code, ApiCode::kForbidden);
  // What is not loaded and what is another's have the same words.
  const auto eval = EvalJobOf(*parts_->context, tenant, {{"memory", "other"}, {"corpus", text}});
  ASSERT_TRUE(std::holds_alternative<ApiError>(eval));
  EXPECT_EQ(std::get<ApiError>(eval).code, ApiCode::kNotFound);
}

TEST_F(JobRequestsTest, WithoutFoldersNothingOfTheServersIsRead) {
  parts_ = nullptr;
  parts_ = std::make_unique<testing::ApiParts>();
  ExpectError({{"out", "n"}, {"paths", {"deep"}}}, ApiCode::kForbidden, "out", "--memory-root");
}

}  // namespace
}  // namespace pointsman
