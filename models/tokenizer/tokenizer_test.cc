// Behaviour by hand-checked examples; tests/test_tokenizer_parity.py compares with the Hugging Face library at large.
#include "models/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "models/testing/mutations.h"
#include "models/testing/safetensors_file.h"
#include "models/testing/tiny_model.h"

namespace pointsman {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;

// 256 byte tokens (id = byte), 256 = <|endoftext|>, 257 "ab", 258 "abc", 259 "bc", 260 "aa", 261 " a".
class ByteLevelTokenizer : public ::testing::Test {
 protected:
  ByteLevelTokenizer() {
    testing::WriteByteTokenizer(Path());
    spec_ = Json::parse(testing::ReadBytes(Path()));
    int32_t id = 257;
    for (const char* token : {"ab", "abc", "bc", "aa", "\u0120a"}) spec_["model"]["vocab"][token] = id++;
    spec_["model"]["merges"] = {"a b", {"b", "c"}, "ab c", "a a", "\u0120 a"};
  }

  std::unique_ptr<const Tokenizer> Load() {
    testing::WriteJson(Path(), spec_);
    auto loaded = Tokenizer::Load(Path());
    if (loaded.ok()) return std::move(loaded).value();
    ADD_FAILURE() << loaded.error().message;
    return nullptr;
  }
  Ids Encode(std::string_view text) { return Load()->Encode(text); }
  // The error after `change`, without the file's name.
  std::string ErrorAfter(const std::function<void(Json&)>& change) {
    Json changed = spec_;
    change(changed);
    testing::WriteJson(Path(), changed);
    const auto loaded = Tokenizer::Load(Path());
    if (loaded.ok()) return "accepted";
    const std::string prefix = Path().string() + ": ";
    return loaded.error().message.starts_with(prefix) ? loaded.error().message.substr(prefix.size())
                                                      : "unnamed file: " + loaded.error().message;
  }
  void AddToken(int id, const char* content, Json flags) {
    flags["id"] = id;
    flags["content"] = content;
    spec_["added_tokens"].push_back(flags);
  }
  std::filesystem::path Path() const { return directory_.path() / "tokenizer.json"; }

  testing::TemporaryDirectory directory_;
  Json spec_;
};

TEST_F(ByteLevelTokenizer, MergesTheLowestRankFirst) {
  EXPECT_EQ(Encode("abc"), Ids{258});
  EXPECT_EQ(Encode("bc"), Ids{259});
  EXPECT_EQ(Encode("aaa"), (Ids{260, 'a'})) << "the leftmost of equals";
  EXPECT_EQ(Encode("aab"), (Ids{'a', 257})) << "'a b' ranks before 'a a'";
  EXPECT_EQ(Encode("bcab"), (Ids{259, 257}));
  EXPECT_EQ(Encode(""), Ids{});
}

TEST_F(ByteLevelTokenizer, SplitsWordsAsGpt2Does) {
  EXPECT_EQ(Encode("b ab c"), (Ids{'b', ' ', 257, ' ', 'c'}));
  EXPECT_EQ(Encode("b  ac"), (Ids{'b', ' ', 261, 'c'})) << "the last space belongs to the word";
  EXPECT_EQ(Encode("a1b"), (Ids{'a', '1', 'b'})) << "digits separate 'a' from 'b'";
}

TEST_F(ByteLevelTokenizer, DecodesToTheSameBytes) {
  const auto tokenizer = Load();
  const std::string text = "Gr\u00fc\u00dfe, \u4f60\u597d \U0001f44d\u200d abc aab\n\t\x01";
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), text);
  EXPECT_EQ(tokenizer->Decode(Ids{0xe4, 0xbd}), "\xe4\xbd") << "partial characters stay partial";
  EXPECT_EQ(tokenizer->Decode(Ids{'a', 256, 'b'}), "ab");
  EXPECT_EQ(tokenizer->Decode(Ids{'a', 256, 'b'}, /*skip_special=*/false), "a<|endoftext|>b");
  EXPECT_EQ(tokenizer->Decode(Ids{-1, 262, 1 << 30, 'a'}), "a") << "ids outside the vocabulary";
  EXPECT_EQ(tokenizer->vocab_size(), 262);
  EXPECT_EQ(tokenizer->TokenId("<|endoftext|>"), 256);
  EXPECT_EQ(tokenizer->TokenId("nope"), -1);
}

TEST_F(ByteLevelTokenizer, ReplacesInvalidUtf8) {
  EXPECT_EQ(Encode("a\xff"), (Ids{'a', 0xef, 0xbf, 0xbd}));
  EXPECT_EQ(Encode(std::string_view("\0", 1)), Ids{0});
}

TEST_F(ByteLevelTokenizer, FindsAddedTokensInText) {
  EXPECT_EQ(Encode("ab<|endoftext|>c"), (Ids{257, 256, 'c'}));
  EXPECT_EQ(Encode("<|endoftex").size(), 10u) << "a part is plain text";
  AddToken(262, "<|end", {});
  AddToken(263, "bb", {{"single_word", true}});
  AddToken(264, "<l>", {{"lstrip", true}});
  AddToken(265, "<r>", {{"rstrip", true}});
  EXPECT_EQ(Encode("<|end<|endoftext|>"), (Ids{262, 256})) << "the longest";
  EXPECT_EQ(Encode("bb cbb bb."), (Ids{263, ' ', 'c', 'b', 'b', ' ', 263, '.'}));
  EXPECT_EQ(Encode("c \n<l> c"), (Ids{'c', 264, ' ', 'c'}));
  EXPECT_EQ(Encode("c <r> \nc"), (Ids{'c', ' ', 265, 'c'}));
}

TEST_F(ByteLevelTokenizer, FindsNormalizedAddedTokensAfterNormalization) {
  spec_["normalizer"] = {{"type", "NFC"}};
  AddToken(262, "\u00e9\u00e9", {{"normalized", true}});
  AddToken(263, "e\u0300", {{"normalized", false}});
  EXPECT_EQ(Encode("x\u00e9e\u0301"), (Ids{'x', 262}));
  EXPECT_EQ(Encode("e\u0300\u00e8"), (Ids{263, 0xc3, 0xa8})) << "before normalisation only the decomposed form";
}

TEST_F(ByteLevelTokenizer, Normalizes) {
  spec_["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKD"}}, {{"type", "NFC"}}}}};
  EXPECT_EQ(Encode("\ufb01e\u0301"), Load()->Encode("fi\u00e9"));
  EXPECT_EQ(Encode("\u32ff").size(), 3u) << "the library's tables are older than this sign";
}

TEST_F(ByteLevelTokenizer, AppliesPreTokenizersInOrder) {
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto split = [](const char* behavior, bool invert) {
    return Json{{"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", behavior}, {"invert", invert}};
  };
  const auto with = [&](const Json& first) {
    spec_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {first, bytes}}};
    return Encode("abbc");
  };
  // 'a b' merges only where both are in one word.
  EXPECT_EQ(with(split("Isolated", false)), (Ids{'a', 'b', 'b', 'c'}));
  EXPECT_EQ(with(split("Removed", false)), (Ids{'a', 'c'}));
  EXPECT_EQ(with(split("Removed", true)), (Ids{'b', 'b'}));
  EXPECT_EQ(with(split("MergedWithPrevious", false)), (Ids{257, 'b', 'c'}));
  EXPECT_EQ(with(split("MergedWithNext", false)), (Ids{'a', 'b', 259}));
  EXPECT_EQ(with(split("Contiguous", false)), (Ids{'a', 'b', 'b', 'c'}));
  EXPECT_EQ(with({{"type", "Digits"}, {"individual_digits", true}}), (Ids{257, 259}));
  spec_["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  EXPECT_EQ(Encode("a a"), (Ids{261, 261}));
}

TEST_F(ByteLevelTokenizer, IgnoresMergesForWholeWords) {
  spec_["model"]["merges"] = {"a b"};
  EXPECT_EQ(Encode("abc"), (Ids{257, 'c'}));
  spec_["model"]["ignore_merges"] = true;
  EXPECT_EQ(Encode("abc"), Ids{258});
  EXPECT_EQ(Encode("abcc"), (Ids{257, 'c', 'c'}));
}

TEST_F(ByteLevelTokenizer, IsSafeToShareBetweenThreads) {
  const auto tokenizer = Load();
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "abc " + std::to_string(i) + " aab\u00e9\n";
  const Ids expected = tokenizer->Encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) threads.emplace_back([&] { result = tokenizer->Encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) EXPECT_EQ(result, expected);
}

TEST_F(ByteLevelTokenizer, EncodesAMegabyteWithoutSpaces) {
  const Ids ids = Encode(std::string(1 << 20, 'a'));
  EXPECT_EQ(ids.size(), size_t{1} << 19);
  EXPECT_EQ(ids.front(), 260);
}

TEST_F(ByteLevelTokenizer, CanonicalTextIgnoresSpellingOnly) {
  const std::string original = Load()->CanonicalText();
  Json& merges = spec_["model"]["merges"];
  merges = {{"a", "b"}, "b c", {"ab", "c"}, "a a", "\u0120 a"};
  spec_["post_processor"] = {{"type", "TemplateProcessing"}};
  EXPECT_EQ(Load()->CanonicalText(), original);
  std::swap(merges[0], merges[1]);
  EXPECT_NE(Load()->CanonicalText(), original) << "the order of merges";
  std::swap(merges[0], merges[1]);
  spec_["normalizer"] = {{"type", "NFC"}};
  EXPECT_NE(Load()->CanonicalText(), original) << "the normaliser";
  spec_["normalizer"] = nullptr;
  spec_["added_tokens"][0]["lstrip"] = true;
  EXPECT_NE(Load()->CanonicalText(), original) << "what an added token takes";
}

TEST_F(ByteLevelTokenizer, RefusesWhatItDoesNotImplement) {
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["type"] = "Unigram"; }),
            "model 'Unigram' is not supported; byte-level BPE is");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["unk_token"] = "<unk>"; }),
            "model.unk_token is not supported; it must be null");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["dropout"] = 0.1; }), "model.dropout is not supported");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["byte_fallback"] = true; }), "model.byte_fallback is not supported");
  EXPECT_EQ(ErrorAfter([](Json& j) {
              j["normalizer"] = {{"type", "Lowercase"}};
            }),
            "normalizer 'Lowercase' is not supported; NFC, NFD, NFKC, NFKD and Sequence are");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["pre_tokenizer"] = nullptr; }),
            "no pre_tokenizer; only byte-level BPE (ByteLevel) is supported");
  EXPECT_EQ(ErrorAfter([](Json& j) {
              j["pre_tokenizer"] = {{"type", "Metaspace"}};
            }),
            "pre_tokenizer 'Metaspace' where only ByteLevel in the last place is supported");
  EXPECT_EQ(ErrorAfter([](Json& j) {
              j["decoder"] = {{"type", "WordPiece"}};
            }),
            "decoder 'WordPiece' is not supported");
  EXPECT_EQ(ErrorAfter([](Json& j) {
              j["post_processor"] = {{"type", "BertProcessing"}};
            }),
            "post_processor 'BertProcessing' is not supported");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["vocab"].erase("!"); }),
            "the vocabulary has no token for byte 0x21; text with it would be lost");
}

TEST_F(ByteLevelTokenizer, RefusesABadPattern) {
  const auto with_pattern = [&](const char* regex) {
    return ErrorAfter([&](Json& j) {
      const Json split = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
      j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, j["pre_tokenizer"]}}};
    });
  };
  EXPECT_EQ(with_pattern("a(b"), "pre_tokenizer: pattern does not compile: missing closing parenthesis");
  EXPECT_EQ(with_pattern("\\w+"), "pre_tokenizer: pattern uses the escape '\\w', which is not supported");
  EXPECT_EQ(with_pattern("x*"), "pre_tokenizer: pattern can match the empty string");
}

TEST_F(ByteLevelTokenizer, RefusesADamagedVocabulary) {
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["merges"].push_back("a zz"); }),
            "merge 5 ('a' 'zz') names a token that is not in the vocabulary");
  EXPECT_EQ(ErrorAfter([](Json& j) {
              j["model"]["merges"].push_back({"b", "b"});
            }),
            "merge 5 ('b' 'b') names a token that is not in the vocabulary");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["merges"][1] = "a b c"; }), "merge 1 is not a pair of tokens");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["merges"] = 3; }), "model.merges is not a list");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["vocab"]["abc"] = 300; }),
            "token ids are not 0..261 each once (token 'abc' has id 300)");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["vocab"]["abc"] = 257; }).find("token ids are not 0..261 each once"),
            0u);
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["vocab"]["abc"] = 1ll << 31; }),
            "token 'abc' has an id that is no integer below 2^31");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["model"]["vocab"]["abc"] = -1; }),
            "token 'abc' has an id that is no integer below 2^31");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["added_tokens"][0]["id"] = 3; }),
            "added token '<|endoftext|>' has id 3, but 256 in the vocabulary");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }),
            "added token '<|endoftext|>' appears twice");
  EXPECT_EQ(ErrorAfter([](Json& j) { j["added_tokens"][0]["content"] = ""; }),
            "field 'content' of added token 256 is empty or longer than 4 KiB");
  EXPECT_EQ(ErrorAfter([](Json& j) { j.erase("model"); }), "'model' is missing");
}

TEST_F(ByteLevelTokenizer, SurvivesRandomDamage) {
  spec_["normalizer"] = {{"type", "NFC"}};
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", R"([^\r\n\p{L}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+)"}}},
                      {"behavior", "Isolated"}};
  spec_["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, spec_["pre_tokenizer"]}}};
  // The vocabulary is most of the file: damage around it half of the time.
  const std::string sound = spec_.dump();
  const size_t vocabulary = sound.find("\"vocab\"");
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const bool before = seed % 2 == 0;
    testing::WriteBytes(Path(), before ? testing::Mutate(sound.substr(0, vocabulary), seed) + sound.substr(vocabulary)
                                       : testing::Mutate(sound, seed));
    const auto loaded = Tokenizer::Load(Path());
    if (!loaded.ok()) {
      EXPECT_EQ(loaded.error().message.find('\n'), std::string::npos) << seed;
      continue;
    }
    const Ids ids = loaded.value()->Encode("abc <|endoftext|> 12345\u00e9e\u0301\xff  \n");
    for (int32_t id : ids) ASSERT_LT(id, loaded.value()->vocab_size()) << seed;
    loaded.value()->Decode(ids);
  }
}

}  // namespace
}  // namespace pointsman
