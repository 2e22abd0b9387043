// The whole main job on a tiny random model: corpus -> memory -> verdict, and what happens when it is interrupted.
#include "indexer/builder.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>
#include <set>

#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using testing::TemporaryDirectory;

// A file of words, each two or three of the syllables: something to learn, yet no two files alike.
void WriteWords(const std::filesystem::path& path, const std::vector<std::string>& syllables, uint32_t seed) {
  std::mt19937 random(seed);
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path);
  for (int i = 0; i < 60; ++i) {
    for (uint32_t n = 2 + random() % 2; n > 0; --n) file << syllables[random() % syllables.size()];
    file << (i % 10 == 9 ? '\n' : ' ');
  }
}

class CorpusAndTinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::WriteTinyModel(root() / "model", {});
    const std::vector<std::string> code{"<int>", "std::", "_t",   "();", "&x",  "{",
                                        "}",     "->",    "void", "#if", "ptr", "T&&"};
    const std::vector<std::string> prose{"la", "mo", "ne", "rus", "ti", "ga", "bel", "do", "sha", "win", "er", "oo"};
    for (uint32_t i = 0; i < 120; ++i) {
      WriteWords(root() / "corpus" / ("lib" + std::to_string(i % 5)) / (std::to_string(i) + ".h"), code, i);
      WriteWords(root() / "general" / (std::to_string(i) + ".txt"), prose, 1000 + i);
    }
  }
  const std::filesystem::path& root() const { return directory_.path(); }

  BuildOptions Options(const std::string& out, int threads = 1) const {
    BuildOptions options;
    options.data.model = root() / "model";
    options.data.corpus = {(root() / "corpus").string()};
    options.data.off_domain = {(root() / "general").string()};
    options.data.max_tokens = 6000;
    options.data.max_test_tokens = 3000;
    options.data.max_off_domain_tokens = 6000;
    options.data.threads = threads;
    options.data.quiet = true;
    options.out = root() / out;
    options.preset = "fast";
    return options;
  }
  EvalOptions EvalOf(const BuildOptions& build) const {
    EvalOptions options;
    options.data = build.data;
    options.memory = build.out;
    return options;
  }

 private:
  TemporaryDirectory directory_;
};

TEST_F(CorpusAndTinyModel, ABuildPublishesAMemoryWithAVerdict) {
  const BuildOptions options = Options("memory");
  const auto report = BuildMemory(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  const Manifest& manifest = report.value().manifest;
  EXPECT_EQ(manifest.generation, 1u);
  EXPECT_NE(manifest.verdict.verdict, "absent");
  EXPECT_EQ(manifest.reference_tokens, 6000u);
  EXPECT_GT(manifest.verdict.test_documents, 5u);
  EXPECT_EQ(manifest.test_looks, 1u);
  ASSERT_TRUE(manifest.calibration.has_value());
  EXPECT_GT(manifest.calibration->tokens, 0u);
  EXPECT_FALSE(std::filesystem::exists(options.out / "build"));
  const auto memory = Memory::Open(options.out, {});
  ASSERT_TRUE(memory.ok()) << memory.error().message;
  EXPECT_EQ(memory.value()->manifest().digest, Digest(memory.value()->tables()));
  const auto findings = Verify(options.out);
  ASSERT_TRUE(findings.ok());
  EXPECT_TRUE(findings.value().empty());
}

TEST_F(CorpusAndTinyModel, TheDigestIsTheSameForAnyNumberOfThreads) {
  const auto one = BuildMemory(Options("one", 1)), three = BuildMemory(Options("three", 3));
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one.value().manifest.digest, three.value().manifest.digest);
  BuildOptions other_seed = Options("other");
  other_seed.data.seed = 1;
  const auto other = BuildMemory(other_seed);
  ASSERT_TRUE(other.ok());
  EXPECT_NE(other.value().manifest.digest, one.value().manifest.digest);
}

TEST_F(CorpusAndTinyModel, AFinishedBuildIsNotOverwrittenAndResumeKeepsIt) {
  const BuildOptions options = Options("memory");
  ASSERT_TRUE(BuildMemory(options).ok());
  const auto again = BuildMemory(options);
  ASSERT_FALSE(again.ok());
  EXPECT_NE(again.error().message.find("--resume"), std::string::npos);
  BuildOptions resumed = options;
  resumed.resume = true;
  const auto kept = BuildMemory(resumed);
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  EXPECT_EQ(kept.value().manifest.generation, 1u);
  resumed.data.seed = 9;
  const auto other = BuildMemory(resumed);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code, ErrorCode::kMismatch);
}

TEST_F(CorpusAndTinyModel, EvalScoresEveryVariantOnTheSameText) {
  const BuildOptions build = Options("memory");
  ASSERT_TRUE(BuildMemory(build).ok());
  EvalOptions options = EvalOf(build);
  options.variants = {"all"};
  const auto report = Evaluate(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  std::vector<std::string> names;
  for (const VariantScore& v : report.value().variants) names.push_back(v.name);
  EXPECT_EQ(names, VariantNames());
  EXPECT_EQ(report.value().test_looks, 2u);
  for (const VariantScore& v : report.value().variants) {
    if (v.name == "frozen") {
      EXPECT_EQ(v.gain, 0.0);
    } else if (v.name == "oracle" || v.name == "full_finetune") {
      EXPECT_LT(v.gain, -0.1);
    }
  }
}

TEST_F(CorpusAndTinyModel, AnOutputMemoryIsPublishedJudgedAndEvaluatedOnRequestOnly) {
  BuildOptions options = Options("memory");
  options.kind = "prototypes";
  const auto without = BuildMemory(options);
  ASSERT_TRUE(without.ok()) << without.error().message;
  options.out = root() / "with_output";
  options.output_memory = true;
  const auto with = BuildMemory(options);
  ASSERT_TRUE(with.ok()) << with.error().message;
  const Manifest& manifest = with.value().manifest;
  EXPECT_EQ(manifest.settings.at("output-memory"), "on");
  EXPECT_EQ(without.value().manifest.settings.at("output-memory"), "off");
  EXPECT_NE(manifest.settings.at("inputs"), without.value().manifest.settings.at("inputs"));
  const auto memory = Memory::Open(options.out, {});
  ASSERT_TRUE(memory.ok()) << memory.error().message;
  EXPECT_TRUE(memory.value()->tables().output.enabled);
  EXPECT_EQ(memory.value()->tables().output.keys.rows, 6000u);
  EXPECT_TRUE(Verify(options.out).value().empty());
  // The verdict is on routing and votes together. The model is random: votes tell it much more than routing can.
  EXPECT_LT(manifest.verdict.gain, without.value().manifest.verdict.gain - 0.1);
  EXPECT_LT(manifest.verdict.damage, 0.01);

  EvalOptions eval = EvalOf(options);
  eval.variants = {"prototypes", "memory", "memory+output", "knn_lm", "knn_lm+gate"};
  eval.generations = 5;
  const auto report = Evaluate(eval);
  ASSERT_TRUE(report.ok()) << report.error().message;
  std::map<std::string, VariantScore> scores;
  for (const VariantScore& v : report.value().variants) scores[v.name] = v;
  EXPECT_EQ(scores["memory"].gain, manifest.verdict.gain);
  EXPECT_EQ(scores["memory+output"].gain, scores["memory"].gain);     // it is published
  EXPECT_GT(scores["prototypes"].gain, scores["memory"].gain + 0.1);  // routing alone
  EXPECT_GT(*scores["memory"].bytes_per_token, *scores["prototypes"].bytes_per_token);
  EXPECT_EQ(scores["knn_lm"].untouched_tokens, 0);
  EXPECT_GT(*scores["knn_lm+gate"].untouched_tokens, 0.5);
  EXPECT_GT(*scores["knn_lm+gate"].build_s, 0);
  std::vector<std::string> continued;
  for (const GenerationScore& g : report.value().generation) continued.push_back(g.variant);
  const std::vector<std::string> once{"frozen", "memory", "knn_lm", "knn_lm+gate", "memory+output"};
  std::vector<std::string> expected = once;  // greedy, then sampled
  expected.insert(expected.end(), once.begin(), once.end());
  expected.push_back("truth");
  EXPECT_EQ(continued, expected);
  EXPECT_EQ(report.value().generation[1].match, report.value().generation[4].match);
}

TEST_F(CorpusAndTinyModel, ATestCorpusGivesUpWhatTheMemoryWasMadeOf) {
  const BuildOptions options = Options("memory");
  ASSERT_TRUE(BuildMemory(options).ok());
  EvalOptions eval = EvalOf(options);
  eval.variants = {"memory"};
  eval.test_corpus = {(root() / "other").string()};
  for (uint32_t i = 0; i < 40; ++i) {
    WriteWords(root() / "other" / (std::to_string(i) + ".h"), {"<int>", "std::", "_t", "();", "ptr"}, 5000 + i);
  }
  const auto alone = Evaluate(eval);
  ASSERT_TRUE(alone.ok()) << alone.error().message;
  // The same files again, and beside them every file of the corpus with one more line: near, not equal.
  for (uint32_t i = 0; i < 120; ++i) {
    const std::string name = std::to_string(i) + ".h";
    const auto copy = root() / "other" / "copies" / name;
    std::filesystem::create_directories(copy.parent_path());
    std::filesystem::copy_file(root() / "corpus" / ("lib" + std::to_string(i % 5)) / name, copy);
    std::ofstream(copy, std::ios::app) << "one more line\n";
  }
  const auto beside = Evaluate(eval);
  ASSERT_TRUE(beside.ok()) << beside.error().message;
  const auto& notes = beside.value().notes;
  const auto about_copies = [](const std::string& note) { return note.find("near-duplicates") != std::string::npos; };
  ASSERT_TRUE(std::any_of(notes.begin(), notes.end(), about_copies));
  const std::string note = *std::find_if(notes.begin(), notes.end(), about_copies);
  const uint64_t made_of = alone.value().reference_documents;
  EXPECT_GE(std::stoull(note), made_of) << note;  // the calibration documents' copies too
}

TEST_F(CorpusAndTinyModel, SeedsTrainAgainWhatIsTrainedAndLeaveTheMemoryAlone) {
  BuildOptions build = Options("memory");
  build.kind = "prototypes";
  ASSERT_TRUE(BuildMemory(build).ok());
  EvalOptions options = EvalOf(build);
  options.variants = {"bias", "knn", "memory"};
  const auto one = Evaluate(options);
  ASSERT_TRUE(one.ok()) << one.error().message;
  options.seeds = 2;
  const auto two = Evaluate(options);
  ASSERT_TRUE(two.ok()) << two.error().message;
  std::map<std::string, VariantScore> before, after;
  for (const VariantScore& v : one.value().variants) before[v.name] = v;
  for (const VariantScore& v : two.value().variants) after[v.name] = v;
  EXPECT_EQ(after["bias"].seeds, 2u);
  EXPECT_GT(*after["bias"].seed_sd, 0.0);
  EXPECT_EQ(after["knn"].seeds, 1u);
  EXPECT_EQ(after["memory"].seeds, 1u);
  EXPECT_EQ(after["memory"].nll, before["memory"].nll);
  ASSERT_TRUE(after.contains("prototypes"));  // trained again, to know how another build would differ
  EXPECT_EQ(after["prototypes"].seeds, 2u);
  EXPECT_NE(after["prototypes"].nll, after["memory"].nll);
}

TEST_F(CorpusAndTinyModel, CopiedPassagesAreFoundWhereDocumentsDiffer) {
  const BuildOptions build = Options("memory");
  ASSERT_TRUE(BuildMemory(build).ok());
  EvalOptions eval = EvalOf(build);
  eval.variants = {"memory"};
  const auto recorded = Evaluate(eval);
  ASSERT_TRUE(recorded.ok()) << recorded.error().message;
  ASSERT_TRUE(recorded.value().leakage.has_value());
  EXPECT_EQ(recorded.value().leakage->test.near_duplicates, 0u);
  EXPECT_EQ(recorded.value().leakage->test.repeated_tokens, 0u);
  EXPECT_FALSE(recorded.value().leakage->gain_without_repeated.has_value());
  EXPECT_GT(recorded.value().leakage->test.reference_documents,
            recorded.value().reference_documents);  // calibration too

  // Test files of other words, each with three lines of a corpus file inside.
  eval.test_corpus = {(root() / "other").string()};
  eval.data.max_test_tokens = 50'000;  // all of them
  for (uint32_t i = 0; i < 60; ++i) {
    const auto path = root() / "other" / (std::to_string(i) + ".h");
    WriteWords(path, {"alpha", "beta", "gamma", "delta", "rho"}, 5000 + i);
    std::ifstream from(root() / "corpus" / ("lib" + std::to_string(i % 5)) / (std::to_string(i) + ".h"));
    std::ofstream to(path, std::ios::app);
    std::string line;
    for (int n = 0; n < 3 && std::getline(from, line); ++n) to << line << '\n';
  }
  const auto copied = Evaluate(eval);
  ASSERT_TRUE(copied.ok()) << copied.error().message;
  const TextOverlap& overlap = copied.value().leakage->test;
  EXPECT_EQ(overlap.near_duplicates, 0u);
  EXPECT_GT(overlap.repeated_documents, 3u)
      << overlap.documents << " documents, " << overlap.reference_documents << " of the memory, longest run "
      << overlap.longest_run << ", left out " << copied.value().leakage->left_out;
  EXPECT_LT(overlap.repeated_tokens, overlap.tokens / 2);
  EXPECT_TRUE(copied.value().leakage->gain_without_repeated.has_value());
}

TEST_F(CorpusAndTinyModel, EvalWithoutAMemoryUsesTheSplitOfBuild) {
  const BuildOptions build = Options("memory");
  const auto built = BuildMemory(build);
  ASSERT_TRUE(built.ok());
  EvalOptions options = EvalOf(build);
  options.memory.clear();
  options.variants = {"frozen", "bias"};
  const auto report = Evaluate(options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report.value().documents, built.value().manifest.verdict.test_documents);
  EXPECT_EQ(report.value().tokens, built.value().manifest.verdict.test_tokens);
}

TEST_F(CorpusAndTinyModel, AMemoryOfAnotherModelIsRefusedWithBothValues) {
  const BuildOptions build = Options("memory");
  ASSERT_TRUE(BuildMemory(build).ok());
  testing::TinyModelShape other;
  other.seed = 2;
  testing::WriteTinyModel(root() / "other", other);
  EvalOptions options = EvalOf(build);
  options.data.model = root() / "other";
  const auto report = Evaluate(options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kMismatch);
}

TEST_F(CorpusAndTinyModel, WithoutTextOnlyWhatNeedsNoTextIsScored) {
  BuildOptions build = Options("memory");
  build.no_text = true;
  ASSERT_TRUE(BuildMemory(build).ok());
  EvalOptions options = EvalOf(build);
  options.variants = {"memory"};
  EXPECT_TRUE(Evaluate(options).ok());
  options.variants = {"bias"};
  const auto report = Evaluate(options);
  ASSERT_FALSE(report.ok());
  EXPECT_NE(report.error().message.find("--no-text"), std::string::npos);
}

TEST_F(CorpusAndTinyModel, ProbeFindsRoomInEveryLayerAndPlanPredicts) {
  ProbeOptions probe;
  probe.data = Options("unused").data;
  probe.sample_tokens = 1500;
  const auto room = Probe(probe);
  ASSERT_TRUE(room.ok()) << room.error().message;
  EXPECT_GT(room.value().headroom, 0.05);
  EXPECT_GT(room.value().documents, 10u);
  EXPECT_FALSE(room.value().equal_experts);
  EXPECT_NE(room.value().advice, Advice::kInVain);
  EXPECT_LT(room.value().layers[1].ci95.low, room.value().layers[1].headroom);
  ProbeOptions greedy = probe;
  greedy.min_gain = 50;
  EXPECT_EQ(Probe(greedy).value().advice, Advice::kInVain);
  EXPECT_EQ(room.value().layers.size(), 3u);
  const auto plan = Plan({Options("unused")});
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(plan.value().tokens, 6000u);
  EXPECT_GT(plan.value().seconds, 0);
}

TEST_F(CorpusAndTinyModel, WrongOptionsNameTheFlag) {
  const auto message = [](const BuildOptions& options) {
    const auto report = BuildMemory(options);
    return report.ok() ? std::string() : report.error().message;
  };
  BuildOptions options = Options("memory");
  options.kind = "trees";
  EXPECT_NE(message(options).find("--kind trees"), std::string::npos);
  options = Options("memory");
  options.blend = "logits";
  EXPECT_NE(message(options).find("--preset knn"), std::string::npos);
  options = Options("memory");
  options.layers = "0,9";
  EXPECT_NE(message(options).find("--layers 0,9"), std::string::npos);
  options = Options("memory");
  options.data.corpus.clear();
  EXPECT_NE(message(options).find("--corpus"), std::string::npos);
}

TEST_F(CorpusAndTinyModel, ThePapersPresetWorksUnderEveryBlendRule) {
  for (const char* blend : {"delta", "logits", "assignments"}) {
    BuildOptions options = Options(std::string("memory_") + blend);
    options.preset = "knn";
    options.blend = blend;
    options.layers = "0,2";
    const auto report = BuildMemory(options);
    ASSERT_TRUE(report.ok()) << report.error().message;
    const auto memory = Memory::Open(options.out, {});
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(memory.value()->tables().layers.size(), 2u);
    EXPECT_EQ(memory.value()->manifest().kind, MemoryKind::kEntries);
  }
}

}  // namespace
}  // namespace pointsman
