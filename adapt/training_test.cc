#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adapt/adam.h"
#include "adapt/entry_values.h"
#include "adapt/linear_part.h"
#include "adapt/prototypes.h"
#include "adapt/tensors.h"
#include "adapt/testing/tiny_text.h"
#include "adapt/token_values.h"
#include "adapt/trainer.h"
#include "models/router_hook.h"

namespace pointsman {
namespace {

constexpr uint32_t kKeyDim = 8;

class ReferenceTextOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    hidden_ = CaptureHidden(*model_, reference_, {});
    for (const at::Tensor& h : hidden_) {
      auto keys = MakeKeys(h, kKeyDim);
      ASSERT_TRUE(keys.ok()) << keys.error().message;
      keys_.push_back(std::move(keys).value());
    }
    for (const Sequence& s : reference_) {
      for (uint32_t t = 0; t < s.inputs.size(); ++t) {
        refs_.push_back({s.document, t});
        groups_.push_back(s.group);
      }
    }
  }

  TrainOptions Options(int threads = 1) const {
    TrainOptions options;
    options.epochs = 3;
    options.threads = threads;
    return options;
  }
  std::unique_ptr<Prototypes> MakePrototypes(int32_t first_layer = 0) const {
    PrototypeOptions options;
    options.first_layer = first_layer;
    options.count = 24;
    options.neighbours = 24;  // all of them: what is exported must equal what was trained
    auto made = Prototypes::Create(model_->config(), keys_, options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
  std::unique_ptr<EntryValues> MakeEntries(int threads = 1) const {
    EntryOptions options;
    options.neighbours = 8;
    options.threads = threads;
    auto made = EntryValues::Create(model_->config(), keys_, hidden_, groups_, options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
  // Mean loss on held-out text under a module, and under its exported tables through router/.
  double ModuleNll(const RoutingModule& module) const {
    const auto hooks = [&](const Batch& batch, std::vector<uint32_t>*) {
      return std::make_unique<ModuleHook>(module, batch, false);
    };
    return MeanNll(held_out_, ScoreSequences(*model_, held_out_, hooks, {}));
  }
  double TableNll(std::vector<OwnedLayer> layers, MemoryKind kind) const {
    OwnedTables tables;
    tables.kind = kind;
    tables.top_k = 2;
    tables.layers = std::move(layers);
    for (const Sequence& s : reference_) tables.documents.push_back("doc" + std::to_string(s.document));
    Router router;
    RouterHook hook(router);
    Binding binding;
    binding.tables = MakeTables(std::move(tables));
    std::vector<uint32_t> slots, members;
    for (uint32_t i = 0; i < held_out_.size(); ++i) {
      slots.push_back(router.AddSlot(binding));
      members.push_back(i);
    }
    const at::NoGradGuard no_grad;
    const Batch batch = MakeBatch(held_out_, members);
    const double nll = TokenLosses(*model_, batch, &hook, slots).sum().item<double>() / CountTargets(held_out_);
    EXPECT_TRUE(hook.status().ok()) << hook.status().error().message;
    return nll;
  }

  const std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> reference_ = testing::PredictableText(24, 20, 1);
  std::vector<Sequence> held_out_ = testing::PredictableText(8, 20, 2);
  std::vector<at::Tensor> hidden_;
  std::vector<LayerKeys> keys_;
  std::vector<EntryRef> refs_;
  std::vector<uint32_t> groups_;
};

TEST(AdamTest, FirstStepMovesEachValueByItsRateAgainstTheGradient) {
  const at::Tensor value = at::tensor({1.0f, -2.0f}).set_requires_grad(true);
  Adam adam({{"value", value, 0.1}});
  const std::vector<at::Tensor> gradients{at::tensor({4.0f, -0.5f})};
  adam.Step(gradients, 1.0);
  EXPECT_NEAR(value[0].item<float>(), 0.9f, 1e-5);
  EXPECT_NEAR(value[1].item<float>(), -1.9f, 1e-5);
  adam.Step(std::vector<at::Tensor>{at::Tensor()}, 1.0);  // no gradient: left alone
  EXPECT_NEAR(value[0].item<float>(), 0.9f, 1e-5);
}

TEST_F(ReferenceTextOfATinyModel, EveryModuleLearnsAndKeepsItsBestEpoch) {
  LinearPart bias(model_->config(), {.bias_rate = 0.05});
  const auto prototypes = MakePrototypes();
  const auto entries = MakeEntries();
  for (RoutingModule* module : {static_cast<RoutingModule*>(&bias), static_cast<RoutingModule*>(prototypes.get()),
                                static_cast<RoutingModule*>(entries.get())}) {
    const TrainReport report = Train(*model_, *module, reference_, held_out_, Options());
    EXPECT_LT(report.best_nll, report.initial_nll - 1e-3);
    EXPECT_NEAR(ModuleNll(*module), report.best_nll, 1e-6);
  }
}

TEST_F(ReferenceTextOfATinyModel, DropoutLeavesPrototypesOutInTrainingOnly) {
  const auto plain = MakePrototypes();
  PrototypeOptions options;
  options.count = options.neighbours = 24;
  options.dropout = 0.5;
  auto made = Prototypes::Create(model_->config(), keys_, options);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const Prototypes& dropping = *made.value();
  for (const Prototypes* module : std::initializer_list<const Prototypes*>{plain.get(), &dropping}) {
    const at::NoGradGuard no_grad;
    module->Parameters().front().value.copy_(at::arange(24).unsqueeze(1));  // values of layer 0
  }
  const at::Tensor hidden = hidden_[0].narrow(0, 0, 20);
  Batch batch;
  batch.ids = at::zeros({1, 20}, at::kLong);
  const at::Tensor all = plain->Change(0, hidden, batch, true);
  EXPECT_TRUE(at::equal(all, dropping.Change(0, hidden, batch, false)));
  const at::Tensor once = dropping.Change(0, hidden, batch, true);
  EXPECT_FALSE(at::equal(all, once));
  EXPECT_TRUE(at::equal(once, dropping.Change(0, hidden, batch, true)));
  batch.draw = 1;
  EXPECT_FALSE(at::equal(once, dropping.Change(0, hidden, batch, true)));
}

TEST_F(ReferenceTextOfATinyModel, RekeyedEntriesKeepTheirValuesAndFindOtherNeighbours) {
  const auto entries = MakeEntries();
  Train(*model_, *entries, reference_, held_out_, Options());
  const HookFactory active = [&](const Batch& batch, std::vector<uint32_t>*) {
    return std::make_unique<ModuleHook>(*entries, batch, true);
  };
  const auto moved = CaptureHidden(*model_, reference_, {.routing = active});
  EXPECT_TRUE(at::allclose(moved[0], hidden_[0], 1e-4, 1e-5));  // nothing is routed before the first layer
  EXPECT_GT((moved[2] - hidden_[2]).abs().max().item<float>(), 1e-3);
  std::vector<LayerKeys> keys;
  for (const at::Tensor& layer : moved) {
    auto made = MakeKeys(layer, kKeyDim);
    ASSERT_TRUE(made.ok()) << made.error().message;
    keys.push_back(std::move(made).value());
  }
  const at::Tensor before = entries->training_neighbours(2).clone();
  const std::vector<float> values = VectorOf(entries->Parameters().front().value);
  entries->Rekey(keys, moved, groups_);
  EXPECT_FALSE(at::equal(entries->training_neighbours(2), before));
  EXPECT_EQ(VectorOf(entries->Parameters().front().value), values);
  // Trained on, they are as good as exported.
  const TrainReport report = Train(*model_, *entries, reference_, held_out_, Options());
  EXPECT_NEAR(TableNll(entries->Export(refs_), MemoryKind::kEntries), report.best_nll, 2e-2);
}

TEST_F(ReferenceTextOfATinyModel, TrainingGivesTheSameBitsForAnyNumberOfThreads) {
  for (int kind = 0; kind < 2; ++kind) {
    std::vector<std::vector<float>> values;
    for (int threads : {1, 3}) {
      std::unique_ptr<RoutingModule> module;
      if (kind == 0) module = MakePrototypes();
      if (kind == 1) module = MakeEntries(threads);
      Train(*model_, *module, reference_, held_out_, Options(threads));
      values.emplace_back();
      for (const Parameter& p : module->Parameters()) {
        const std::vector<float> flat = VectorOf(p.value);
        values.back().insert(values.back().end(), flat.begin(), flat.end());
      }
    }
    EXPECT_EQ(values[0], values[1]);
  }
}

TEST_F(ReferenceTextOfATinyModel, PrototypesOfTheLastLayersAloneAreWhatIsExported) {
  const int32_t first = static_cast<int32_t>(model_->config().num_layers) - 1;
  const auto module = MakePrototypes(first);
  EXPECT_EQ(module->Parameters().size() + 5 * first, MakePrototypes()->Parameters().size());
  const TrainReport report = Train(*model_, *module, reference_, held_out_, Options());
  EXPECT_LT(report.best_nll, report.initial_nll - 1e-4);
  const std::vector<OwnedLayer> layers = module->Export(hidden_, refs_);
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].layer, first);
  EXPECT_NEAR(TableNll(layers, MemoryKind::kPrototypes), ModuleNll(*module), 2e-3);
}

TEST_F(ReferenceTextOfATinyModel, TrainingNeverShowsATokenItsOwnGroup) {
  const auto entries = MakeEntries();
  for (int layer = 0; layer < 3; ++layer) {
    const at::Tensor rows = entries->training_neighbours(layer);
    for (int64_t i = 0; i < rows.size(0); ++i) {
      for (int64_t j = 0; j < rows.size(1); ++j) EXPECT_NE(groups_[rows[i][j].item<int64_t>()], groups_[i]);
    }
  }
}

TEST_F(ReferenceTextOfATinyModel, EntriesOfOneGroupAreRefusedWithTheRemedy) {
  const std::vector<uint32_t> one_group(groups_.size(), 0);
  const auto made = EntryValues::Create(model_->config(), keys_, hidden_, one_group, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(made.error().message.find("--kind prototypes"), std::string::npos);
}

TEST_F(ReferenceTextOfATinyModel, ExportedTablesRouteAsTheModuleDid) {
  const auto prototypes = MakePrototypes();
  Train(*model_, *prototypes, reference_, held_out_, Options());
  EXPECT_NEAR(TableNll(prototypes->Export(hidden_, refs_), MemoryKind::kPrototypes), ModuleNll(*prototypes), 5e-3);
  const auto entries = MakeEntries();
  Train(*model_, *entries, reference_, held_out_, Options());
  EXPECT_NEAR(TableNll(entries->Export(refs_), MemoryKind::kEntries), ModuleNll(*entries), 5e-3);
}

TEST_F(ReferenceTextOfATinyModel, PrototypesNameTheirNearestEntries) {
  const auto layers = MakePrototypes()->Export(hidden_, refs_);
  ASSERT_EQ(layers[0].references.size(), 24u * kPrototypeReferences);
  for (const EntryRef& ref : layers[0].references) {
    EXPECT_LT(ref.document, reference_.size());
    EXPECT_LT(ref.position, 20u);
  }
}

TEST_F(ReferenceTextOfATinyModel, FreeLogitsLowerTheLossMostWithAllLayers) {
  TokenValueOptions options;
  const TokenValues all = OptimizeTokenValues(*model_, reference_, options);
  const double before = MeanNll(reference_, all.before), after = MeanNll(reference_, all.after);
  EXPECT_LT(after, before - 0.1);
  ASSERT_EQ(all.values.size(), 3u);
  EXPECT_EQ(all.values[0].size(0), 24 * 20);
  options.score_after = false;
  const TokenValues unscored = OptimizeTokenValues(*model_, reference_, options);
  EXPECT_TRUE(unscored.values[2].equal(all.values[2]));
  EXPECT_TRUE(unscored.after[0].nll.empty());
  options.score_after = true;
  options.layer = 1;
  options.keep_values = false;
  const TokenValues one = OptimizeTokenValues(*model_, reference_, options);
  EXPECT_TRUE(one.values.empty());
  EXPECT_LT(MeanNll(reference_, one.after), before);
  EXPECT_GT(MeanNll(reference_, one.after), after);
}

TEST_F(ReferenceTextOfATinyModel, FullFineTuningLearnsOnACloneAndLeavesTheModelAlone) {
  const double before = MeanNll(held_out_, ScoreSequences(*model_, held_out_, {}, {}));
  const std::unique_ptr<MoeModel> clone = model_->CloneWithTrainableWeights();
  const TrainReport report = TrainWeights(*clone, 3e-3, reference_, held_out_, Options());
  EXPECT_LT(report.best_nll, before - 0.05);
  EXPECT_EQ(MeanNll(held_out_, ScoreSequences(*model_, held_out_, {}, {})), before);
}

}  // namespace
}  // namespace pointsman
