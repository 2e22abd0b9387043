// Contexts, memories and batches that would be routed wrongly are refused with a reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hosts/llamacpp/llama_routing.h"
#include "hosts/llamacpp/test_routing.h"

namespace pointsman {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the module's test fixtures
using ::testing::HasSubstr;

TEST_F(LlamaRoutingTest, RefusesContextsThatItCannotServe) {
  auto routing = LlamaRouting::Create(model_).value();
  llama_context_params params = Params();
  params.kv_unified = false;
  EXPECT_THAT(routing->Install(params).error().message, HasSubstr("set kv_unified"));
  params.n_seq_max = 1;
  EXPECT_TRUE(routing->Install(params).ok());
  EXPECT_THAT(routing->Install(params).error().message, HasSubstr("another callback is installed"));

  const auto path = ModelFile({.architecture = "dbrx"});
  llama_model_params vocab_only = llama_model_default_params();
  vocab_only.vocab_only = true;
  const LlamaModel other(llama_model_load_from_file(path.c_str(), vocab_only), &llama_model_free);
  std::filesystem::remove(path);
  ASSERT_NE(other, nullptr);
  EXPECT_THAT(LlamaRouting::Create(other.get()).error().message, HasSubstr("architecture 'dbrx' was not tested"));
}

TEST_F(LlamaRoutingTest, RefusesMemoriesOfAnotherShape) {
  auto routing = LlamaRouting::Create(model_).value();
  const auto error = [&](Binding binding) { return routing->Bind(0, std::move(binding)).error().message; };
  EXPECT_THAT(error({.tables = RandomTables(2, {.layers = {0, 7}}), .session = nullptr}),
              HasSubstr("layer 7: the memory has it and the model has no router there"));
  OwnedTables narrow = RandomOwnedTables(2, {});
  narrow.layers[0].experts = 5;
  EXPECT_THAT(error({.tables = MakeTables(std::move(narrow)), .session = nullptr}),
              HasSubstr("10 experts, the memory has 5"));
  auto session = std::make_shared<SessionVectors>();
  session->by_layer = {std::vector<float>(3)};
  EXPECT_THAT(error({.tables = nullptr, .session = session}), HasSubstr("the session's vector has 3"));
}

TEST_F(LlamaRoutingTest, RefusesBatchesBeforeTheyAreComputed) {
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const llama_batch batch = Interleaved(std::span(kText).first(3), 0);
  batch.pos[2] = 5;
  EXPECT_THAT(DecodeError(host, batch), HasSubstr("row 2 of sequence 0 has the position 5, not 1"));
  batch.pos[2] = -1;
  EXPECT_THAT(DecodeError(host, batch), HasSubstr("positions start at 0"));
  llama_batch_free(batch);

  llama_batch shared = llama_batch_init(1, 0, 2);
  shared.n_tokens = 1;
  shared.token[0] = 1;
  shared.pos[0] = 0;
  shared.n_seq_id[0] = 2;
  shared.seq_id[0][0] = 1;
  shared.seq_id[0][1] = 0;
  EXPECT_THAT(DecodeError(host, shared), HasSubstr("then llama_memory_seq_cp and CopySequence"));
  llama_batch_free(shared);

  llama_batch embeddings = llama_batch_init(1, kHidden, 1);
  embeddings.n_tokens = 1;
  embeddings.pos[0] = 0;
  embeddings.n_seq_id[0] = 1;
  embeddings.seq_id[0][0] = 0;
  EXPECT_THAT(DecodeError(host, embeddings), HasSubstr("has an embedding and no token id"));
  llama_batch_free(embeddings);
  EXPECT_EQ(llama_memory_seq_pos_max(llama_get_memory(host.context.get()), 0), -1) << "nothing was computed";
}

TEST_F(LlamaRoutingTest, NoticesABatchThatWentPastIt) {
  Context host = Attached();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const std::span<const int32_t> text(kText);
  const SequenceBatch head(text.first(4), 0, true), tail(text.subspan(4, 4), 4, true);
  ASSERT_EQ(llama_decode(host.context.get(), head.get()), 0);
  EXPECT_THAT(DecodeError(host, tail.get()), HasSubstr("was given to llama_decode while sequences were bound"));
}

TEST_F(LlamaRoutingTest, ACallbackThatIsNotInstalledIsAnError) {
  Context host = Plain();
  host.routing = LlamaRouting::Create(model_).value();
  ASSERT_TRUE(host.routing->Bind(0, {.tables = RandomTables(2), .session = nullptr}).ok());
  const SequenceBatch batch(kText, 0, true);
  EXPECT_THAT(DecodeError(host, batch.get()), HasSubstr("0 of 20 rows reached the callback"));
}

}  // namespace
}  // namespace pointsman
