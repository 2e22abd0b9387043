// Bindings follow llama.cpp's sequences: side by side, rewound, copied, bound late.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hosts/llamacpp/llama_routing.h"
#include "hosts/llamacpp/test_routing.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures

TEST_F(LlamaRoutingTest, EachSequenceHasItsOwnBinding) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context plain = Plain();
  const std::vector<float> frozen = Feed(plain, kText);
  Context alone = Attached();
  ASSERT_TRUE(alone.routing->Bind(0, binding).ok());
  const std::vector<float> routed = Feed(alone, kText);

  Context both = Attached(Params(/*micro_batch=*/7));
  ASSERT_TRUE(both.routing->Bind(1, binding).ok());
  const llama_batch batch = Interleaved(kText, 0);
  const std::vector<float> mixed = Feed(both, batch);
  llama_batch_free(batch);
  for (size_t i = 0; i < kText.size(); ++i) {
    const auto row = [&](const std::vector<float>& all, size_t at) {
      return std::span(all).subspan(at * kVocabulary, kVocabulary);
    };
    EXPECT_LT(Largest(row(mixed, 2 * i), row(frozen, i)), kTolerance) << i;
    EXPECT_LT(Largest(row(mixed, 2 * i + 1), row(routed, i)), kTolerance) << i;
  }
  EXPECT_EQ(both.routing->GateHistory(1), alone.routing->GateHistory(0));
}

TEST_F(LlamaRoutingTest, RewindingForgets) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, binding).ok());
  Feed(host, kText);
  llama_memory_seq_rm(llama_get_memory(host.context.get()), 0, 8, -1);
  const std::vector<int32_t> other = {6, 6, 1, 0, 2};
  const std::vector<float> after = Feed(host, other, 8);

  std::vector<int32_t> text(kText.begin(), kText.begin() + 8);
  text.insert(text.end(), other.begin(), other.end());
  Context fresh = Attached();
  ASSERT_TRUE(fresh.routing->Bind(0, binding).ok());
  const std::vector<float> expected = Feed(fresh, text);
  EXPECT_LT(Largest(after, std::span(expected).last(after.size())), kTolerance);
  EXPECT_EQ(host.routing->GateHistory(0), fresh.routing->GateHistory(0));
}

TEST_F(LlamaRoutingTest, ABindingInTheMiddleKnowsTheTextBefore) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context whole = Attached();
  ASSERT_TRUE(whole.routing->Bind(0, binding).ok());
  Feed(whole, kText);
  const std::vector<float> expected = whole.routing->GateHistory(0);
  ASSERT_THAT(expected, ::testing::Contains(::testing::Gt(0.0f)));

  const auto head = std::span(kText).first(12), tail = std::span(kText).subspan(12);
  Context late = Attached();
  Feed(late, head);
  ASSERT_TRUE(late.routing->Bind(0, binding).ok());
  Feed(late, tail, 12);
  EXPECT_EQ(late.routing->GateHistory(0), expected);

  Context copied = Attached();
  Feed(copied, head, 0, 2);
  llama_memory_seq_cp(llama_get_memory(copied.context.get()), 2, 3, -1, -1);
  copied.routing->CopySequence(2, 3);
  ASSERT_TRUE(copied.routing->Bind(3, binding).ok());
  Feed(copied, tail, 12, 3);
  EXPECT_EQ(copied.routing->GateHistory(3), expected);
}

TEST_F(LlamaRoutingTest, StrengthAndUnbindTakeEffect) {
  Context host = Attached();
  Context plain = Plain();
  const std::vector<float> expected = Feed(plain, kText);
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const auto again = [&] {
    llama_memory_clear(llama_get_memory(host.context.get()), true);
    return Feed(host, kText);
  };
  EXPECT_GT(Largest(again(), expected), 100 * kTolerance);
  host.routing->SetStrength(0, 0);
  EXPECT_TRUE(SameBits(again(), expected));
  host.routing->SetSession(0, RandomSession(4, kModelLayers));
  EXPECT_GT(Largest(again(), expected), 100 * kTolerance);
  host.routing->Unbind(0);
  EXPECT_TRUE(SameBits(again(), expected));
}

TEST_F(LlamaRoutingTest, PositionsAreFilledInAsLlamaDoes) {
  const Binding binding{.tables = RandomTables(2), .session = nullptr};
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, binding).ok());
  for (const size_t start : {size_t{0}, size_t{9}}) {
    std::vector<int32_t> part(kText.begin() + static_cast<ptrdiff_t>(start),
                              start == 0 ? kText.begin() + 9 : kText.end());
    const auto code =
        host.routing->Decode(host.context.get(), llama_batch_get_one(part.data(), static_cast<int32_t>(part.size())));
    ASSERT_TRUE(code.ok()) << code.error().message;
  }
  Context whole = Attached();
  ASSERT_TRUE(whole.routing->Bind(0, binding).ok());
  Feed(whole, kText);
  EXPECT_EQ(host.routing->GateHistory(0), whole.routing->GateHistory(0));
}

}  // namespace
}  // namespace pointsman
