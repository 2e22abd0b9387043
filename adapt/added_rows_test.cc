#include "adapt/added_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapt/entry_values.h"
#include "adapt/prototypes.h"
#include "adapt/tensors.h"
#include "adapt/testing/tiny_text.h"
#include "adapt/trainer.h"
#include "models/router_hook.h"

namespace pointsman {
namespace {

constexpr uint32_t kKeyDim = 8;
constexpr int32_t kAll = 1024;  // neighbours: more than there are rows

// A memory of one text, trained as a build does, and another text that is to join it.
class MemoryOfATinyModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(model_, nullptr);
    new_[2].inputs = new_[0].inputs;  // of another cluster: its nearest neighbour is its twin
    new_[2].targets = new_[0].targets;
    const std::vector<at::Tensor> hidden = CaptureHidden(*model_, old_, {});
    std::vector<LayerKeys> keys;
    for (const at::Tensor& h : hidden) keys.push_back(MakeKeys(h, kKeyDim).value());
    std::vector<uint32_t> groups;
    std::vector<EntryRef> refs;
    for (const Sequence& s : old_) {
      groups.insert(groups.end(), s.inputs.size(), s.group);
      for (uint32_t t = 0; t < s.inputs.size(); ++t) refs.push_back({s.document, t});
    }
    EntryOptions entries;
    entries.neighbours = 8;
    entries_ = EntryValues::Create(model_->config(), keys, hidden, groups, entries).value();
    Train(*model_, *entries_, old_, {}, TrainingOf(1));
    PrototypeOptions prototypes;
    prototypes.count = 12;
    auto module = Prototypes::Create(model_->config(), keys, prototypes).value();
    Train(*model_, *module, old_, {}, TrainingOf(1));
    tables_[0] = Tables(MemoryKind::kEntries, entries_->Export(refs));
    tables_[1] = Tables(MemoryKind::kPrototypes, module->Export(hidden, refs));
    for (OwnedLayer& layer : tables_[1].layers) layer.calibration.k = kAll;  // as the training softmax sees them

    hidden_ = CaptureHidden(*model_, new_, {});
    for (const Sequence& s : new_) {
      groups_.insert(groups_.end(), s.inputs.size(), s.group);
      for (uint32_t t = 0; t < s.inputs.size(); ++t) {
        refs_.push_back({static_cast<uint32_t>(old_.size()) + s.document, t});
      }
    }
  }
  static TrainOptions TrainingOf(int threads) {
    TrainOptions options;
    options.epochs = 3;
    options.threads = threads;
    return options;
  }
  OwnedTables Tables(MemoryKind kind, std::vector<OwnedLayer> layers) const {
    OwnedTables tables;
    tables.kind = kind;
    tables.top_k = 2;
    tables.layers = std::move(layers);
    for (size_t i = 0; i < old_.size() + new_.size(); ++i) tables.documents.push_back(std::to_string(i));
    return tables;
  }
  std::unique_ptr<AddedRows> Make(MemoryKind kind, std::vector<uint32_t> groups, int threads = 1) const {
    AddedRowsOptions options;
    options.prototypes = 5;
    options.threads = threads;
    auto made = AddedRows::Create(MakeTables(tables_[static_cast<size_t>(kind)]), hidden_, groups, options);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
  // Loss on the new text: under the module in training, and under its rows behind the old ones through router/.
  double ModuleNll(const RoutingModule& module, std::span<const Sequence> text) const {
    const auto hooks = [&](const Batch& batch, std::vector<uint32_t>*) {
      return std::make_unique<ModuleHook>(module, batch, true);
    };
    return MeanNll(text, ScoreSequences(*model_, text, hooks, {}));
  }
  double JoinedNll(OwnedTables tables, const std::vector<OwnedLayer>& added, std::span<const Sequence> text) const {
    for (size_t i = 0; i < added.size(); ++i) {
      const auto append = [](auto& to, const auto& rows) { to.insert(to.end(), rows.begin(), rows.end()); };
      append(tables.layers[i].keys.codes, added[i].keys.codes);
      append(tables.layers[i].keys.code_scales, added[i].keys.code_scales);
      append(tables.layers[i].values, added[i].values);
      append(tables.layers[i].value_scales, added[i].value_scales);
      append(tables.layers[i].references, added[i].references);
    }
    EXPECT_TRUE(CheckTables(*MakeTables(tables)).ok());
    Router router;
    RouterHook hook(router);
    Binding binding;
    binding.tables = MakeTables(std::move(tables));
    std::vector<uint32_t> slots, members;
    for (uint32_t i = 0; i < text.size(); ++i) {
      slots.push_back(router.AddSlot(binding));
      members.push_back(i);
    }
    const at::NoGradGuard no_grad;
    const double sum = TokenLosses(*model_, MakeBatch(text, members), &hook, slots).sum().item<double>();
    EXPECT_TRUE(hook.status().ok()) << hook.status().error().message;
    return sum / static_cast<double>(CountTargets(text));
  }
  Batch BatchOf(std::vector<uint32_t> members) const { return MakeBatch(new_, members); }
  at::Tensor HiddenOf(const Batch& batch, int layer) const { return hidden_[layer].index_select(0, batch.rows); }

  const std::unique_ptr<MoeModel> model_ = testing::LoadTinyModel();
  std::vector<Sequence> old_ = testing::PredictableText(16, 20, 1);
  std::vector<Sequence> new_ = testing::PredictableText(6, 20, 7);
  std::unique_ptr<EntryValues> entries_;
  OwnedTables tables_[2];
  std::vector<at::Tensor> hidden_;
  std::vector<uint32_t> groups_;
  std::vector<EntryRef> refs_;
};

TEST_F(MemoryOfATinyModel, NewPrototypesLearnAndRouteAsTheyWereTrained) {
  const auto added = Make(MemoryKind::kPrototypes, groups_);
  const double before = ModuleNll(*added, new_);
  Train(*model_, *added, new_, {}, TrainingOf(1));
  const double after = ModuleNll(*added, new_);
  EXPECT_LT(after, before - 1e-3);
  const std::vector<OwnedLayer> rows = added->Export(refs_);
  ASSERT_EQ(rows.size(), tables_[1].layers.size());
  EXPECT_EQ(rows[0].value_scales.size(), 5u);
  EXPECT_NEAR(JoinedNll(tables_[1], rows, new_), after, 2e-3) << "int8 is all that lies between";
  for (const EntryRef& reference : rows[0].references) EXPECT_GE(reference.document, old_.size());
}

TEST_F(MemoryOfATinyModel, NewEntriesLearnFromOtherDocumentsAndHelpTheirOwn) {
  const auto added = Make(MemoryKind::kEntries, groups_);
  const double before = ModuleNll(*added, new_);
  const double joined_before = JoinedNll(tables_[0], {}, new_);
  Train(*model_, *added, new_, {}, TrainingOf(1));
  EXPECT_LT(ModuleNll(*added, new_), before - 1e-3);
  EXPECT_LT(JoinedNll(tables_[0], added->Export(refs_), new_), joined_before - 1e-3);
}

// Without another new document, what a token sees are the old entries alone: exactly the memory.
TEST_F(MemoryOfATinyModel, OldEntriesSayWhatTheySaid) {
  const auto added = Make(MemoryKind::kEntries, std::vector<uint32_t>(groups_.size(), 0));
  const Batch batch = BatchOf({0, 1, 2});
  const at::NoGradGuard no_grad;
  const at::Tensor now = added->Change(0, HiddenOf(batch, 0), batch, true);
  const at::Tensor was = entries_->Change(0, HiddenOf(batch, 0), batch, false);
  EXPECT_GT(was.abs().max().item<float>(), 0.01f);
  EXPECT_LT((now - was).abs().max().item<float>(), 0.02f * was.abs().max().item<float>());
}

TEST_F(MemoryOfATinyModel, ATokenTableOfSomeTokensSaysWhatAWholeOneSays) {
  const auto vocabulary = static_cast<size_t>(model_->config().vocab_size);
  std::vector<OwnedLayer>& layers = tables_[1].layers;
  std::vector<float> rows(vocabulary * layers[0].experts);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i / layers[0].experts % 5 == 1) rows[i] = 0.1f * static_cast<float>(i % 7) - 0.3f;
  }
  layers[0].SetTokenTable(rows);
  ASSERT_FALSE(layers[0].token_ids.empty());
  const Batch batch = BatchOf({0, 1, 2});
  const at::NoGradGuard no_grad;
  const at::Tensor some = Make(MemoryKind::kPrototypes, groups_)->Change(0, HiddenOf(batch, 0), batch, true);
  OwnedLayer whole = layers[0];
  whole.token_ids.clear();
  whole.token_table.assign(rows.size(), 0);
  whole.token_table_scales.assign(vocabulary, 0);
  for (size_t i = 0; i < layers[0].token_ids.size(); ++i) {
    const uint32_t token = layers[0].token_ids[i], width = whole.experts;
    std::copy_n(layers[0].token_table.begin() + i * width, width, whole.token_table.begin() + token * width);
    whole.token_table_scales[token] = layers[0].token_table_scales[i];
  }
  layers[0] = whole;
  const at::Tensor all = Make(MemoryKind::kPrototypes, groups_)->Change(0, HiddenOf(batch, 0), batch, true);
  EXPECT_TRUE(at::equal(some, all));
  layers[0].token_table.clear();
  layers[0].token_table_scales.clear();
  const at::Tensor none = Make(MemoryKind::kPrototypes, groups_)->Change(0, HiddenOf(batch, 0), batch, true);
  EXPECT_GT((all - none).abs().max().item<float>(), 0.05f);
}

TEST_F(MemoryOfATinyModel, ATokenNeverSeesItsOwnDocument) {
  const auto added = Make(MemoryKind::kEntries, groups_);
  const Batch own = BatchOf({0, 1}), other = BatchOf({2});  // two documents a cluster
  const int layer =
      static_cast<int>(hidden_.size()) - 1;  // in the first one, equal tokens have equal keys, the old first
  const at::NoGradGuard no_grad;
  const auto change = [&](const Batch& batch) { return added->Change(layer, HiddenOf(batch, layer), batch, true); };
  const at::Tensor own_before = change(own), other_before = change(other);
  std::vector<at::Tensor> loud;
  for (const at::Tensor& h : hidden_) {
    at::Tensor values = at::zeros({h.size(0), model_->config().num_experts}, at::kFloat);
    values.slice(0, 0, 40).fill_(100);  // of the first cluster
    loud.push_back(values);
  }
  added->SetEntryValues(loud);
  EXPECT_TRUE(at::equal(change(own), own_before));
  EXPECT_GT((change(other) - other_before).abs().max().item<float>(), 1.0f);
}

TEST_F(MemoryOfATinyModel, ThreadsDoNotChangeTheResult) {
  for (const MemoryKind kind : {MemoryKind::kEntries, MemoryKind::kPrototypes}) {
    const auto one = Make(kind, groups_, 1), two = Make(kind, groups_, 2);
    Train(*model_, *one, new_, {}, TrainingOf(1));
    Train(*model_, *two, new_, {}, TrainingOf(2));
    const auto a = one->Export(refs_), b = two->Export(refs_);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].values, b[i].values);
      EXPECT_EQ(a[i].keys.codes, b[i].keys.codes);
    }
  }
}

TEST_F(MemoryOfATinyModel, ValuesThatAreNotChangesAreRefused) {
  OwnedTables tables = tables_[0];
  tables.value_kind = ValueKind::kLogits;
  const auto made = AddedRows::Create(MakeTables(std::move(tables)), hidden_, groups_, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace pointsman
