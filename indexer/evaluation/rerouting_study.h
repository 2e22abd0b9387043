// The sensitivity study of online rerouting: what each of its settings does to the text that follows, on texts of
// several kinds. `pointsman study rewire` prints its table; the plot is made from the same numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "adapt/objective.h"
#include "adapt/rerouting_options.h"
#include "adapt/sequences.h"
#include "indexer/builder.h"
#include "memory/document.h"
#include "memory/result.h"
#include "memory/routing_tables.h"
#include "models/model.h"

namespace pointsman {

struct StudyText {
  std::string name;
  std::vector<Sequence> windows;  // of at least kStudyContext + kStudyFewest tokens
};

// The scored tokens are the same for every setting: those from this position of a window on; a context of c tokens is
// the c tokens before it.
inline constexpr uint32_t kStudyContext = 128;
inline constexpr uint32_t kStudyScored = 128;  // at most
inline constexpr uint32_t kStudyFewest = 64;   // a window with fewer is left out

struct StudySetting {
  std::string group;  // what is varied
  std::string label;  // its value
  ReroutingOptions rerouting;
  uint32_t context = 64;
  uint32_t interval = kStudyScored;
  bool recompute = false;
};

// Loss against the frozen model's on the same tokens and context, in nats per token; < 0 is better.
struct StudyCell {
  double gain = 0;
  double standard_error = 0;  // over windows
  double worst = 0;           // window
  uint64_t worse = 0;         // windows with a rise
  uint64_t windows = 0;
};

struct StudyRow {
  StudySetting setting;
  std::vector<StudyCell> cells;  // by text
  double learn_ms = 0;           // median time of learning from one context alone
};

struct StudyReport {
  std::vector<std::string> texts;
  std::vector<uint64_t> windows, tokens;  // by text; tokens are scored ones
  std::vector<StudyRow> rows;
};

// One setting varied at a time around `base`; the first row is `base` itself, group "default".
std::vector<StudySetting> StudyGrid(const ReroutingOptions& base);

// `paths` as `--corpus` takes them; at most `windows` windows, two a document, none of a near-duplicate of `known`
// (what a memory was made from). kInvalidArgument: no text is long enough.
Result<StudyText> LoadStudyText(const MoeModel& model, const CorpusOptions& options, const std::string& name,
                                const std::vector<std::string>& paths, uint32_t windows,
                                std::span<const Document> known = {});

Result<StudyReport> RunReroutingStudy(const MoeModel& model, std::span<const StudyText> texts,
                                      std::span<const StudySetting> settings, int threads,
                                      const std::function<void(const StudyRow&)>& on_row);

// Rows of the group "next window": vectors learned from all of one window act in the document's next one, as they are
// ("carried") or, given a memory, written into it (indexer/write_back.h). Changes against frozen.
Result<std::vector<StudyRow>> RunNextWindowStudy(const MoeModel& model, std::span<const StudyText> texts,
                                                 const ReroutingOptions& rerouting,
                                                 const std::shared_ptr<const RoutingTables>& memory, int threads);

// Rows of the group "beside a memory": the memory and rerouting, each alone and together, the vectors started at zero
// or at the memory's mean retrieved change (warm). "a minus b": the change against b, paired by window; all others are
// against frozen.
Result<std::vector<StudyRow>> RunMemoryStudy(const MoeModel& model, std::span<const StudyText> texts,
                                             const ReroutingOptions& rerouting,
                                             const std::shared_ptr<const RoutingTables>& memory, int threads);

// `text`'s windows with a context of `context` tokens, its losses masked; and the mean loss of each.
std::vector<Sequence> StudyWindows(const StudyText& text, uint32_t context);
std::vector<double> MeansOf(std::span<const SequenceScore> scores, std::span<const Sequence> windows);

// The change of mean losses, by window.
StudyCell CompareWindows(std::span<const double> means, std::span<const double> frozen);

nlohmann::json ToJson(const StudyReport& report);  // schemas/study_rewire.schema.json
std::string ToTable(const StudyReport& report);
std::string ToSvg(const StudyReport& report);  // a panel a group: gain with its standard error, and the worst window

}  // namespace pointsman
