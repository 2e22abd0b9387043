#include "router/c_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <string>
#include <thread>
#include <vector>

#include "memory/small_floats.h"
#include "router/test_memory.h"

extern "C" int route_in_c(const char* path, int32_t layer, const int32_t* tokens, size_t rows, const float* hidden,
                          size_t hidden_size, float* logits, size_t experts, char* message, size_t capacity);

namespace pointsman {
namespace {

using ::testing::HasSubstr;
using testing::kExperts;
using testing::kHidden;
using testing::kVocabulary;
using testing::SameBits;
using ::testing::StartsWith;
using testing::Text;

constexpr uint32_t kRows = 24;
constexpr int32_t kLayer = 1;

template <typename Handle, void (*free)(Handle*)>
struct Freed {
  Handle* handle = nullptr;
  Freed() = default;
  Freed(const Freed&) = delete;
  Freed& operator=(const Freed&) = delete;
  ~Freed() { free(handle); }
  operator Handle*() const { return handle; }
};
using MemoryHandle = Freed<pm_memory, pm_memory_close>;
using StepHandle = Freed<pm_step, pm_step_free>;
using SessionHandle = Freed<pm_session, pm_session_free>;
struct RouterHandle : Freed<pm_router, pm_router_free> {
  RouterHandle() { handle = pm_router_new(); }
};

// One random memory on disk, a text of 24 tokens, and what the C++ router makes of it.
class MemoryBehindC : public ::testing::Test {
 protected:
  MemoryBehindC() {
    EXPECT_TRUE(IsOk(testing::WriteMemory(path_, *tables_)));
    EXPECT_EQ(pm_memory_open(path_.c_str(), nullptr, &memory_.handle, &error_), PM_OK) << error_.message;
    for (uint32_t i = 0; i < kRows; ++i) positions_.push_back(i);
  }

  // The logits of the text at kLayer after the C++ router.
  std::vector<float> Expected(Binding binding) {
    Router router;
    const uint32_t slot = router.AddSlot(std::move(binding));
    return testing::RunStep(router, {{slot, &text_, 0, kRows}}).logits[kLayer];
  }

  void Begin(pm_router* router, uint32_t slot, StepHandle& step) {
    const std::vector<uint32_t> slots(kRows, slot);
    ASSERT_EQ(pm_router_begin_step(router, slots.data(), positions_.data(), text_.tokens.data(), kRows, &step.handle,
                                   &error_),
              PM_OK)
        << error_.message;
  }

  pm_status RouteFloats(pm_router* router, pm_step* step, std::vector<float>& logits) {
    return pm_router_route(router, step, kLayer, text_.hidden[kLayer].data(), PM_F32, kHidden, logits.data(), PM_F32,
                           kExperts, &error_);
  }

  TemporaryDirectory directory_;
  const std::string path_ = (directory_.path() / "memory").string();
  const std::shared_ptr<const RoutingTables> tables_ = MakeTables(testing::RandomMemoryTables(5));
  const Text text_{6, kRows, 4};
  std::vector<uint32_t> positions_;
  pm_error error_ = {};
  MemoryHandle memory_;
};

TEST_F(MemoryBehindC, CRoutesToTheBitsOfCpp) {
  std::vector<float> logits = text_.logits[kLayer];
  char message[256];
  ASSERT_EQ(route_in_c(path_.c_str(), kLayer, text_.tokens.data(), kRows, text_.hidden[kLayer].data(), kHidden,
                       logits.data(), kExperts, message, sizeof message),
            PM_OK)
      << message;
  EXPECT_TRUE(SameBits(logits, Expected({.tables = tables_, .session = nullptr})));
  EXPECT_FALSE(SameBits(logits, text_.logits[kLayer]));
  EXPECT_EQ(route_in_c("nowhere", kLayer, nullptr, kRows, nullptr, kHidden, nullptr, kExperts, message, sizeof message),
            PM_NOT_FOUND);
  EXPECT_THAT(message, StartsWith("nowhere: not a memory"));
}

TEST_F(MemoryBehindC, BindingsReachTheRouter) {
  const auto session = testing::RandomSession(8, 4);
  std::vector<int32_t> layers = {0, 1, 2, 3};
  std::vector<const float*> vectors;
  for (const auto& vector : session->by_layer) vectors.push_back(vector.data());
  SessionHandle vectors_of_c;
  ASSERT_EQ(pm_session_new(layers.data(), vectors.data(), 4, kExperts, &vectors_of_c.handle, &error_), PM_OK);

  RouterHandle router;
  StepHandle step, shadow_step;
  std::vector<float> logits = text_.logits[kLayer];
  const uint32_t slot = pm_router_add_slot(router, memory_, nullptr, 1.0f, 0);
  ASSERT_EQ(pm_router_set_strength(router, slot, 0.4f, &error_), PM_OK);
  ASSERT_EQ(pm_router_set_session(router, slot, vectors_of_c, &error_), PM_OK);
  Begin(router, slot, step);
  ASSERT_EQ(RouteFloats(router, step, logits), PM_OK) << error_.message;
  EXPECT_TRUE(SameBits(logits, Expected({.tables = tables_, .session = session, .strength = 0.4f})));

  std::vector<float> untouched = text_.logits[kLayer];
  Begin(router, pm_router_add_slot(router, memory_, nullptr, 1.0f, 1), shadow_step);
  ASSERT_EQ(RouteFloats(router, shadow_step, untouched), PM_OK);
  EXPECT_TRUE(SameBits(untouched, text_.logits[kLayer]));
  pm_counters counters;
  pm_router_get_counters(router, &counters);
  EXPECT_EQ(counters.rows, 2 * kRows);
  EXPECT_EQ(counters.written, kRows);  // those of the session
  EXPECT_GT(counters.touched, 0u);
}

TEST_F(MemoryBehindC, KillSwitchAndFrozenRowsLeaveTheBits) {
  RouterHandle router;
  StepHandle frozen, killed;
  std::vector<float> logits = text_.logits[kLayer];
  Begin(router, 0, frozen);
  ASSERT_EQ(RouteFloats(router, frozen, logits), PM_OK);
  EXPECT_TRUE(SameBits(logits, text_.logits[kLayer]));
  Begin(router, pm_router_add_slot(router, memory_, nullptr, 1.0f, 0), killed);
  pm_router_set_kill_switch(router, 1);
  ASSERT_EQ(RouteFloats(router, killed, logits), PM_OK);
  EXPECT_TRUE(SameBits(logits, text_.logits[kLayer]));
}

// What bf16 and fp16 rows become: widened, routed by the C++ router, rounded once; untouched rows keep their bits.
TEST_F(MemoryBehindC, NarrowTypesAreRoundedOnce) {
  for (const pm_dtype type : {PM_BF16, PM_F16}) {
    const auto narrow = [&](float value) { return type == PM_BF16 ? FloatToBFloat16(value) : FloatToHalf(value); };
    const auto widen = [&](uint16_t bits) { return type == PM_BF16 ? BFloat16ToFloat(bits) : HalfToFloat(bits); };
    std::vector<uint16_t> hidden, logits, expected;
    Text rounded = text_;
    for (float& value : rounded.hidden[kLayer]) value = widen(hidden.emplace_back(narrow(value)));
    for (float& value : rounded.logits[kLayer]) value = widen(logits.emplace_back(narrow(value)));
    Router of_cpp;
    const auto routed =
        testing::RunStep(of_cpp, {{of_cpp.AddSlot({.tables = tables_, .session = nullptr}), &rounded, 0, kRows}});
    for (const float value : routed.logits[kLayer]) expected.push_back(narrow(value));

    RouterHandle router;
    StepHandle step;
    Begin(router, pm_router_add_slot(router, memory_, nullptr, 1.0f, 0), step);
    const std::vector<uint16_t> before = logits;
    ASSERT_EQ(
        pm_router_route(router, step, kLayer, hidden.data(), type, kHidden, logits.data(), type, kExperts, &error_),
        PM_OK)
        << error_.message;
    EXPECT_EQ(logits, expected);
    EXPECT_NE(logits, before);
  }
}

TEST_F(MemoryBehindC, TracesComeInRowOrderAndAreWhatWasWritten) {
  struct Seen {
    std::vector<uint32_t> rows;
    std::vector<float> after;
    uint32_t neighbours = 0;
  } seen;
  RouterHandle router;
  StepHandle step;
  Begin(router, pm_router_add_slot(router, memory_, nullptr, 1.0f, 0), step);
  std::vector<float> logits = text_.logits[kLayer];
  const auto keep = [](void* context, const pm_row_trace* trace) {
    auto* all = static_cast<Seen*>(context);
    all->rows.push_back(trace->row);
    all->neighbours += trace->neighbour_count;
    all->after.insert(all->after.end(), trace->logits_after, trace->logits_after + trace->experts);
  };
  ASSERT_EQ(pm_router_route_traced(router, step, kLayer, text_.hidden[kLayer].data(), kHidden, logits.data(), kExperts,
                                   keep, &seen, &error_),
            PM_OK);
  EXPECT_EQ(seen.rows, positions_);
  EXPECT_GT(seen.neighbours, 0u);
  EXPECT_TRUE(SameBits(seen.after, logits));
  EXPECT_TRUE(SameBits(logits, Expected({.tables = tables_, .session = nullptr})));
}

TEST_F(MemoryBehindC, TheOutputMemoryVotes) {
  RouterHandle router;
  StepHandle step;
  Begin(router, pm_router_add_slot(router, memory_, nullptr, 1.0f, 0), step);
  std::fill(pm_step_gate(step), pm_step_gate(step) + kRows, 1.0f);
  const std::vector<float> before(kRows * kVocabulary, 0.5f);
  std::vector<float> logits = before;
  ASSERT_EQ(pm_router_vote_output(router, step, nullptr, kRows, text_.hidden[0].data(), kHidden, logits.data(),
                                  kVocabulary, &error_),
            PM_OK)
      << error_.message;
  pm_counters counters;
  pm_router_get_counters(router, &counters);
  EXPECT_EQ(counters.voted, kRows);
  EXPECT_FALSE(SameBits(logits, before));
  EXPECT_EQ(pm_router_vote_output(router, step, nullptr, kRows - 1, text_.hidden[0].data(), kHidden, logits.data(),
                                  kVocabulary, &error_),
            PM_INVALID_ARGUMENT);
  EXPECT_STREQ(error_.message, "output: 23 rows for a step of 24; name the rows");
}

// A prefix cache: one slot reads the text, another is put after its first half and goes on to the same bits.
TEST_F(MemoryBehindC, AGateMovesToAnotherSlot) {
  RouterHandle router;
  StepHandle whole, rest;
  const uint32_t first = pm_router_add_slot(router, memory_, nullptr, 1.0f, 0);
  const uint32_t second = pm_router_add_slot(router, memory_, nullptr, 1.0f, 0);
  Begin(router, first, whole);
  const std::vector<float> gate(pm_step_gate(whole), pm_step_gate(whole) + kRows);

  uint32_t length = 0;
  ASSERT_EQ(pm_router_slot_length(router, first, &length, &error_), PM_OK);
  ASSERT_EQ(length, kRows);
  std::vector<int32_t> tokens(length);
  ASSERT_EQ(pm_router_export_gate(router, first, tokens.data(), length, &error_), PM_OK);
  EXPECT_EQ(tokens, text_.tokens);
  constexpr uint32_t kHalf = kRows / 2;
  ASSERT_EQ(pm_router_import_gate(router, second, tokens.data(), kHalf, &error_), PM_OK);
  const std::vector<uint32_t> slots(kRows - kHalf, second);
  ASSERT_EQ(pm_router_begin_step(router, slots.data(), positions_.data() + kHalf, tokens.data() + kHalf, kRows - kHalf,
                                 &rest.handle, &error_),
            PM_OK)
      << error_.message;
  EXPECT_TRUE(SameBits({pm_step_gate(rest), kRows - kHalf}, std::span(gate).subspan(kHalf)));
  std::vector<float> history(kRows);
  ASSERT_EQ(pm_router_gate_history(router, second, history.data(), kRows, &error_), PM_OK);
  EXPECT_TRUE(SameBits(history, gate));
  EXPECT_EQ(pm_router_gate_history(router, second, history.data(), 3, &error_), PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("has seen 24 positions, not 3"));
}

TEST_F(MemoryBehindC, TablesAreTheMemorysOwn) {
  pm_memory_info info;
  ASSERT_EQ(pm_memory_get_info(memory_, &info, &error_), PM_OK);
  EXPECT_EQ(info.layer_count, 3u);
  EXPECT_EQ(info.hidden, kHidden);
  EXPECT_EQ(info.experts, kExperts);
  EXPECT_EQ(info.rows, 120u);
  EXPECT_GT(info.derived_bytes, 0u);
  EXPECT_EQ(pm_memory_layer_number(memory_, 2), 3);
  EXPECT_EQ(pm_memory_layer_number(memory_, 3), -1);
  pm_layer layer;
  ASSERT_EQ(pm_memory_get_layer(memory_, 3, &layer, &error_), PM_OK);
  const LayerView& view = tables_->layers[2];
  EXPECT_TRUE(std::equal(view.keys.codes.begin(), view.keys.codes.end(), layer.keys.codes));
  EXPECT_TRUE(SameBits({layer.router_delta, kExperts * kHidden}, view.router_delta));
  EXPECT_EQ(layer.token_rows, kVocabulary);
  EXPECT_EQ(layer.token_ids, nullptr) << "every token has a row";
  EXPECT_EQ(layer.keys.mean, nullptr);
  EXPECT_EQ(layer.references[7].document, 1u);
  EXPECT_EQ(layer.references[7].position, 3u);
  EXPECT_EQ(pm_memory_get_layer(memory_, 2, &layer, &error_), PM_NOT_FOUND);
  EXPECT_STREQ(error_.message, (path_ + ": has nothing for layer 2; its layers are 0 1 3").c_str());
  pm_gate gate;
  pm_memory_get_gate(memory_, &gate);
  EXPECT_EQ(gate.window, 9u);
  EXPECT_TRUE(std::equal(gate.pairs, gate.pairs + gate.pair_count, tables_->gate.pairs.begin()));
  pm_output output;
  pm_memory_get_output(memory_, &output);
  EXPECT_EQ(output.enabled, 1);
  EXPECT_EQ(output.next_tokens[19], tables_->output.next_tokens[19]);
  size_t length = 0;
  const char* name = pm_memory_document(memory_, 1, &length);
  EXPECT_EQ(std::string(name, length), "corpus/b.txt");
  EXPECT_EQ(pm_memory_document(memory_, 2, &length), nullptr);
  EXPECT_THAT(pm_memory_manifest(memory_), HasSubstr("\"architecture\": \"olmoe\""));
}

TEST_F(MemoryBehindC, SearchIsThatOfTheIndex) {
  std::vector<pm_neighbour> found(kRows * 3);
  ASSERT_EQ(pm_memory_search(memory_, kLayer, text_.hidden[0].data(), kRows, kHidden, 3, found.data(), &error_), PM_OK);
  std::vector<Neighbour> expected(kRows * 3);
  SearchExact(tables_->layers[1].keys, text_.hidden[0], 3, expected);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].row, expected[i].row);
    EXPECT_EQ(found[i].similarity, expected[i].similarity);
  }
  EXPECT_EQ(pm_memory_search(memory_, kLayer, text_.hidden[0].data(), 1, 9, 3, found.data(), &error_),
            PM_INVALID_ARGUMENT);
  EXPECT_STREQ(error_.message, "layer 1: rows of 9 hidden units; the memory has 12");
}

TEST_F(MemoryBehindC, FingerprintsAreCompared) {
  const std::string config(64, '1'), router(64, '2'), tokenizer(64, '3'), experts(64, '4'), other(64, '9');
  char warning[256] = "unset";
  pm_fingerprint model = {"olmoe", config.c_str(), router.c_str(), tokenizer.c_str(), "bfloat16", experts.c_str()};
  EXPECT_EQ(pm_memory_check_fingerprint(memory_, &model, warning, sizeof warning, &error_), PM_OK);
  EXPECT_STREQ(warning, "");
  model.dtype = "float32";
  EXPECT_EQ(pm_memory_check_fingerprint(memory_, &model, warning, sizeof warning, &error_), PM_OK);
  EXPECT_THAT(warning, HasSubstr("dtype bfloat16 (memory) != float32 (model)"));
  model.router_sha256 = other.c_str();
  EXPECT_EQ(pm_memory_check_fingerprint(memory_, &model, nullptr, 0, &error_), PM_MISMATCH);
  EXPECT_THAT(error_.message, HasSubstr("router_sha256 2222222222222222 (memory) != 9999999999999999 (model)"));
}

TEST_F(MemoryBehindC, MistakesAreNamedAndChangeNothing) {
  RouterHandle router, other;
  StepHandle step, later;
  const uint32_t slot = pm_router_add_slot(router, memory_, nullptr, 1.0f, 0);
  std::vector<float> logits = text_.logits[kLayer];
  Begin(router, slot, step);
  EXPECT_EQ(RouteFloats(other, step, logits), PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("belongs to another router"));
  EXPECT_EQ(pm_router_route(router, step, kLayer, text_.hidden[0].data(), PM_F32, kHidden - 1, logits.data(), PM_F32,
                            kExperts, &error_),
            PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("layer 1"));
  EXPECT_EQ(pm_router_route(router, step, kLayer, text_.hidden[0].data(), 7, kHidden, logits.data(), PM_F32, kExperts,
                            &error_),
            PM_INVALID_ARGUMENT);
  Begin(router, slot, later);
  EXPECT_EQ(RouteFloats(router, step, logits), PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("stale"));
  EXPECT_TRUE(SameBits(logits, text_.logits[kLayer]));
  EXPECT_EQ(pm_router_set_strength(router, 99, 1.0f, &error_), PM_INVALID_ARGUMENT);
  EXPECT_STREQ(error_.message, "slot 99 is not live; add it first");

  const std::vector<float> vector(kExperts, 1.0f), bad(kExperts, testing::kNan);
  const float* twice[] = {vector.data(), vector.data()};
  const float* not_finite[] = {bad.data()};
  const int32_t layers[] = {2, 2}, huge[] = {4096};
  SessionHandle session;
  EXPECT_EQ(pm_session_new(layers, twice, 2, kExperts, &session.handle, &error_), PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("layer 2 is there twice"));
  EXPECT_EQ(pm_session_new(huge, twice, 1, kExperts, &session.handle, &error_), PM_INVALID_ARGUMENT);
  EXPECT_EQ(pm_session_new(layers, not_finite, 1, kExperts, &session.handle, &error_), PM_INVALID_ARGUMENT);
  EXPECT_THAT(error_.message, HasSubstr("not finite"));
  EXPECT_EQ(session.handle, nullptr);
}

TEST_F(MemoryBehindC, ARejectedMemoryNeedsToBeAskedFor) {
  const std::string path = (directory_.path() / "rejected").string();
  ASSERT_TRUE(IsOk(testing::WriteMemory(path, *tables_, "reject")));
  MemoryHandle refused, opened;
  EXPECT_EQ(pm_memory_open(path.c_str(), nullptr, &refused.handle, &error_), PM_REJECTED);
  EXPECT_EQ(refused.handle, nullptr);
  EXPECT_EQ(error_.code, PM_REJECTED);
  EXPECT_THAT(error_.message, HasSubstr("allow_rejected"));
  const pm_open_options options = {.allow_rejected = 1, .load_to_ram = 1};
  EXPECT_EQ(pm_memory_open(path.c_str(), &options, &opened.handle, &error_), PM_OK) << error_.message;
}

TEST_F(MemoryBehindC, ADamagedMemoryIsNamed) {
  FlipBitInFile(std::filesystem::path(path_) / "derived/gen-001/layer-001.bin", 600);
  MemoryHandle damaged;
  EXPECT_EQ(pm_memory_open(path_.c_str(), nullptr, &damaged.handle, &error_), PM_CORRUPT);
  EXPECT_THAT(error_.message, HasSubstr("verify --repair"));
  EXPECT_EQ(pm_memory_open(path_.c_str(), nullptr, &damaged.handle, nullptr), PM_CORRUPT);  // no error wanted
}

// Threads that route on one router and others that only ask: every route has the bits of C++, in whatever order.
TEST_F(MemoryBehindC, ThreadsShareARouter) {
  const std::vector<float> expected = Expected({.tables = tables_, .session = nullptr});
  RouterHandle router;
  std::atomic<int> wrong{0}, routed{0};
  const auto work = [&] {
    const uint32_t slot = pm_router_add_slot(router, memory_, nullptr, 1.0f, 0);
    const std::vector<uint32_t> slots(kRows, slot);
    for (int round = 0; round < 50; ++round) {
      StepHandle step;
      std::vector<float> logits = text_.logits[kLayer];
      if (pm_router_begin_step(router, slots.data(), positions_.data(), text_.tokens.data(), kRows, &step.handle,
                               nullptr) != PM_OK) {
        ++wrong;
      }
      // Another thread may have begun a step meanwhile; then this one is refused and nothing was written.
      const bool done = pm_router_route(router, step, kLayer, text_.hidden[kLayer].data(), PM_F32, kHidden,
                                        logits.data(), PM_F32, kExperts, nullptr) == PM_OK;
      routed += done;
      wrong += !SameBits(logits, done ? expected : text_.logits[kLayer]);
    }
    pm_router_release_slot(router, slot);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(routed, 0);
}

TEST(StatusNames, AreThoseOfResult) {
  EXPECT_STREQ(pm_status_name(PM_INVALID_ARGUMENT), "invalid_argument");
  EXPECT_STREQ(pm_status_name(PM_NO_MEMORY), "no_memory");
  EXPECT_STREQ(pm_status_name(12), "unknown");
  EXPECT_STREQ(pm_status_name(-1), "unknown");
}

// Every 16-bit pattern survives the way to fp32 and back, and halfway values go to the even neighbour.
TEST(SmallFloats, RoundToTheNearestEven) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    if (const float half = HalfToFloat(pattern); !std::isnan(half)) {
      ASSERT_EQ(FloatToHalf(half), pattern);
    }
    if (const float wide = BFloat16ToFloat(pattern); !std::isnan(wide)) {
      ASSERT_EQ(FloatToBFloat16(wide), pattern);
    }
  }
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {  // neighbours among the finite halves
    const float low = HalfToFloat(static_cast<uint16_t>(bits)), high = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(FloatToHalf(middle), bits + (bits & 1));
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, low)), bits);
    EXPECT_EQ(FloatToHalf(std::nextafter(middle, high)), bits + 1);
  }
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(testing::kNan))));
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace pointsman
