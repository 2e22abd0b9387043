#include "indexer/ingest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <tuple>
#include <unordered_set>

#include "indexer/file_walk.h"
#include "indexer/jsonl_rows.h"
#include "indexer/progress.h"
#include "indexer/text_checks.h"
#include "memory/hash.h"

namespace pointsman {
namespace {

// Bytes that a RawDocument may come from: a whole file (not read yet), or a row of a mapped .jsonl file.
struct Candidate {
  std::string source;
  std::string name;
  std::string library;
  uint64_t bytes = 0;
  size_t file = 0;       // order of the result
  size_t line = 0;       // 0 = a whole file
  std::string_view row;  // of `line`
  uint64_t order = 0;    // hash(seed, name)
};

bool IsJsonLines(const std::string& name) { return name.ends_with(".jsonl") || name.ends_with(".ndjson"); }

// "mpl/and.hpp" -> "mpl"; "asio.hpp" -> "asio": a library's umbrella header belongs to its folder.
std::string LibraryOf(const std::string& name) {
  const size_t slash = name.find('/');
  if (slash != std::string::npos) return name.substr(0, slash);
  const size_t dot = name.find('.', 1);
  return name.substr(0, dot);
}

// Of one group.
class Ingester {
 public:
  // `seen`: contents that are in the corpus already.
  Ingester(const IngestOptions& options, std::unordered_set<std::string>& seen)
      : options_(options), files_(options.files ? *options.files : FileSystem::Real()), seen_(seen) {}

  Result<IngestResult> Run() {
    if (options_.paths.empty()) {
      return Error{ErrorCode::kInvalidArgument, "no corpus given; name files or folders with --corpus"};
    }
    POINTSMAN_TRY(const FoundFiles found, FindFiles(options_.paths));
    for (const std::string& path : found.unreadable) Skip(SkipReason::kUnreadable, path);
    result_.report.files_found = found.files.size() + found.unreadable.size();
    std::vector<Candidate> candidates = Candidates(found.files);
    if (options_.max_documents > 0) {
      std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
        return std::tie(a.order, a.file, a.line) < std::tie(b.order, b.file, b.line);
      });
    }
    for (const Candidate& candidate : candidates) {
      if (options_.max_documents > 0 && kept_.size() >= options_.max_documents) break;
      Take(candidate);
    }
    return Collect();
  }

 private:
  void Skip(SkipReason reason, const std::string& source) {
    SkippedFiles& skipped = result_.report.skipped[static_cast<size_t>(reason)];
    if (++skipped.count <= kNamedPerReason) skipped.names.push_back(source);
  }

  std::vector<Candidate> Candidates(const std::vector<FoundFile>& files) {
    std::vector<Candidate> candidates;
    candidates.reserve(files.size());
    for (size_t i = 0; i < files.size(); ++i) {
      if (IsJsonLines(files[i].name)) {
        AddRows(files[i], i, &candidates);
      } else {
        candidates.push_back({files[i].path, files[i].name, LibraryOf(files[i].name), files[i].bytes, i, 0, {}, 0});
      }
    }
    for (Candidate& c : candidates) c.order = XXH3_64bits_withSeed(c.name.data(), c.name.size(), options_.seed);
    return candidates;
  }

  void AddRows(const FoundFile& file, size_t index, std::vector<Candidate>* candidates) {
    if (file.bytes == 0) return Skip(SkipReason::kEmpty, file.path);
    auto mapped = files_.Map(file.path);
    if (!mapped.ok()) return Skip(SkipReason::kUnreadable, file.path);
    ++result_.report.files_read;
    const auto bytes = mapped.value()->bytes();
    std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    mapped_.push_back(std::move(mapped).value());
    if (LooksBinary(text)) return Skip(SkipReason::kBinary, file.path);
    text = WithoutByteOrderMark(text);
    for (size_t line = 1; !text.empty(); ++line) {
      const std::string_view row = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(row.size() + 1, text.size()));
      if (IsBlank(row)) continue;
      const std::string suffix = fmt::format("#{}", line);
      candidates->push_back(
          {file.path + suffix, file.name + suffix, LibraryOf(file.name), row.size(), index, line, row, 0});
    }
  }

  void Take(const Candidate& candidate) {
    if (candidate.bytes > options_.max_file_bytes) return Skip(SkipReason::kTooLarge, candidate.source);
    RawDocument document;
    if (candidate.line > 0) {
      if (!IsValidUtf8(candidate.row)) return Skip(SkipReason::kInvalidUtf8, candidate.source);
      auto row = ParseRow(candidate.row, options_.jsonl_fields);
      if (!row.ok()) return Skip(SkipReason::kMalformedRow, candidate.source);
      document.text = std::move(row.value().text);
      document.learn_spans = std::move(row.value().learn_spans);
    } else {
      auto bytes = files_.ReadFile(candidate.source);
      if (!bytes.ok()) return Skip(SkipReason::kUnreadable, candidate.source);
      ++result_.report.files_read;
      if (LooksBinary(bytes.value())) return Skip(SkipReason::kBinary, candidate.source);
      if (!IsValidUtf8(bytes.value())) return Skip(SkipReason::kInvalidUtf8, candidate.source);
      document.text = std::move(bytes).value();
      document.text.erase(0, document.text.size() - WithoutByteOrderMark(document.text).size());
    }
    if (IsBlank(document.text)) return Skip(SkipReason::kEmpty, candidate.source);
    document.sha256 = Sha256Hex(document.text);
    if (!seen_.insert(document.sha256).second) {
      ++result_.report.exact_duplicates;
      return;
    }
    document.hash = XXH3_64bits_withSeed(document.text.data(), document.text.size(),
                                         XXH3_64bits(candidate.name.data(), candidate.name.size()));
    document.source = candidate.source;
    document.name = candidate.name;
    document.library = candidate.library;
    result_.report.bytes += document.text.size();
    kept_.push_back({candidate.file, candidate.line, result_.documents.size()});
    result_.documents.push_back(std::move(document));
  }

  Result<IngestResult> Collect() {
    result_.report.documents = result_.documents.size();
    if (result_.documents.empty()) {
      return Error{ErrorCode::kNotFound,
                   options_.paths.front() + (options_.paths.size() > 1 ? " and the other corpus paths" : "") +
                       ": no usable text (" + result_.report.Summary() + "); give files of UTF-8 text"};
    }
    std::sort(kept_.begin(), kept_.end(),
              [](const Kept& a, const Kept& b) { return std::tie(a.file, a.line) < std::tie(b.file, b.line); });
    std::vector<RawDocument> ordered;
    ordered.reserve(kept_.size());
    for (const Kept& kept : kept_) ordered.push_back(std::move(result_.documents[kept.document]));
    result_.documents = std::move(ordered);
    return std::move(result_);
  }

  struct Kept {
    size_t file, line, document;
  };

  const IngestOptions& options_;
  FileSystem& files_;
  IngestResult result_;
  std::vector<Kept> kept_;
  std::unordered_set<std::string>& seen_;
  std::vector<std::shared_ptr<const MappedFile>> mapped_;  // what Candidate::row points into
};

}  // namespace

const char* SkipReasonText(SkipReason reason) {
  switch (reason) {
    case SkipReason::kBinary:
      return "binary";
    case SkipReason::kInvalidUtf8:
      return "invalid UTF-8";
    case SkipReason::kEmpty:
      return "empty";
    case SkipReason::kTooLarge:
      return "too large";
    case SkipReason::kUnreadable:
      return "unreadable";
    case SkipReason::kMalformedRow:
      return "malformed row";
  }
  return "unknown";
}

void IngestReport::Add(const IngestReport& other) {
  files_found += other.files_found;
  files_read += other.files_read;
  documents += other.documents;
  bytes += other.bytes;
  exact_duplicates += other.exact_duplicates;
  for (size_t i = 0; i < kSkipReasons; ++i) {
    skipped[i].count += other.skipped[i].count;
    for (const std::string& name : other.skipped[i].names) {
      if (skipped[i].names.size() < kNamedPerReason) skipped[i].names.push_back(name);
    }
  }
}

std::string IngestReport::Summary() const {
  std::string text = fmt::format("{} documents ({:.1f} MB) from {} files", FormatCount(documents),
                                 static_cast<double>(bytes) / 1e6, FormatCount(files_found));
  if (exact_duplicates > 0) text += fmt::format("; {} exact duplicates left out", FormatCount(exact_duplicates));
  const char* separator = "; skipped: ";
  for (size_t i = 0; i < kSkipReasons; ++i) {
    if (skipped[i].count == 0) continue;
    text += fmt::format("{}{} {} ({}{})", separator, FormatCount(skipped[i].count),
                        SkipReasonText(static_cast<SkipReason>(i)), skipped[i].names.front(),
                        skipped[i].count > 1 ? ", ..." : "");
    separator = ", ";
  }
  return text;
}

Result<IngestResult> Ingest(const IngestOptions& options) {
  std::unordered_set<std::string> seen;
  const std::vector<CorpusGroup> one{{.name = "", .paths = options.paths}};
  const std::vector<CorpusGroup>& groups = options.groups.empty() ? one : options.groups;
  IngestResult all;
  for (uint32_t group = 0; group < groups.size(); ++group) {
    IngestOptions part = options;
    part.paths = groups[group].paths;
    POINTSMAN_TRY(IngestResult result, Ingester(part, seen).Run());
    for (RawDocument& document : result.documents) {
      document.group = group;
      all.documents.push_back(std::move(document));
    }
    all.report.Add(result.report);
  }
  return all;
}

}  // namespace pointsman
