#include "indexer/write_back.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapt/testing/tiny_text.h"
#include "memory/copy_tables.h"
#include "memory/routing_tables_owned.h"

namespace pointsman {
namespace {

class SessionOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(model_, nullptr); }

  static std::shared_ptr<const RoutingTables> TablesOf(MemoryKind kind, ValueKind value_kind = ValueKind::kDelta) {
    OwnedTables tables = CopyTables(*testing::RandomTables(24, 6, 3, testing::GateState::kOff));
    tables.kind = kind;
    tables.value_kind = value_kind;
    tables.documents = {"old"};
    for (OwnedLayer& layer : tables.layers) {
      layer.references.resize(40 * (kind == MemoryKind::kEntries ? 1 : kPrototypeReferences));
      layer.calibration.k = 1;
    }
    return MakeTables(std::move(tables));
  }

  // What the tables change when the text is read: [layer] = [T, E].
  std::vector<at::Tensor> Changes(const std::shared_ptr<const RoutingTables>& tables) const {
    const at::NoGradGuard no_grad;
    class Recorder : public RoutingHook {
     public:
      explicit Recorder(RoutingHook& inner) : inner_(inner) {}
      void BeginStep(const StepInfo& step) override { inner_.BeginStep(step); }
      // The next layer sees the frozen logits, so that both tables are asked about the same hidden states.
      at::Tensor Route(int layer, const at::Tensor& hidden, const at::Tensor& logits) override {
        changes_.push_back(inner_.Route(layer, hidden, logits.clone()) - logits);
        return logits;
      }
      RoutingHook& inner_;
      std::vector<at::Tensor> changes_;
    };
    MemoryBinding binding;
    binding.tables = tables;
    ConstantMemory memory(binding, 1);
    Recorder recorder(memory);
    const std::vector<uint32_t> members{0};
    model_->Forward(MakeBatch(std::span(&text_, 1), members).ids, {.hook = &recorder, .slots = memory.slots()});
    return recorder.changes_;
  }

  std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  Sequence text_ = testing::PredictableText(1, 30, /*seed=*/3)[0];
  const SessionVectors vectors_{.by_layer = {{1, -1, 0, 0.5, 0, 0}, {}, {0, 0, 0, 2, -2, 0}}};
};

TEST_F(SessionOfATinyModel, AnEntryFoundAgainAddsTheVectorToWhatTheMemoryDid) {
  const auto before = TablesOf(MemoryKind::kEntries);
  const auto written = WriteBack(*model_, before, text_, vectors_);
  ASSERT_TRUE(written.ok()) << written.error().message;
  const RoutingTables& after = *written.value();
  ASSERT_TRUE(CheckTables(after).ok()) << CheckTables(after).error().message;
  EXPECT_EQ(after.layers[0].keys.rows, 70u);
  EXPECT_EQ(after.layers[1].keys.rows, 40u) << "no vector there";
  EXPECT_EQ(after.documents.back(), "session");
  EXPECT_EQ(after.layers[2].references.back().position, 29u);
  // Layer 0 does not depend on routing: every token finds its own entry, at similarity 1 up to rounding.
  const at::Tensor difference = Changes(written.value())[0] - Changes(before)[0];
  const at::Tensor vector = at::tensor({1.0f, -1.0f, 0.0f, 0.5f, 0.0f, 0.0f});
  // The memory's own part is scaled by the confidence of its nearest entry, the written one by about 1: compare with
  // what is stored, change + vector.
  EXPECT_LT((difference - vector).abs().max().item<float>(), 0.15);
}

TEST_F(SessionOfATinyModel, APrototypeStandsForTheWholeText) {
  const auto before = TablesOf(MemoryKind::kPrototypes);
  const auto written = WriteBack(*model_, before, text_, vectors_);
  ASSERT_TRUE(written.ok()) << written.error().message;
  ASSERT_TRUE(CheckTables(*written.value()).ok());
  EXPECT_EQ(written.value()->layers[0].keys.rows, 41u);
  const LayerView& layer = written.value()->layers[2];
  for (size_t e = 0; e < 6; ++e) {
    const float value = layer.values[40 * 6 + e] * layer.value_scales[40] * layer.calibration.scale;
    EXPECT_NEAR(value, vectors_.by_layer[2][e], 0.02);
  }
}

TEST_F(SessionOfATinyModel, OtherKindsOfValuesAreRefused) {
  const auto written = WriteBack(*model_, TablesOf(MemoryKind::kEntries, ValueKind::kLogits), text_, vectors_);
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(written.error().message, ::testing::HasSubstr("--blend delta"));
}

}  // namespace
}  // namespace pointsman
