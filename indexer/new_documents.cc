#include "indexer/new_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "indexer/corpus.h"
#include "indexer/near_duplicates.h"

namespace pointsman {
namespace {

constexpr double kNearDuplicate = 0.5;  // NearDuplicateOptions::min_jaccard

// A document that the new ones are compared with.
struct Known {
  std::string what;  // "the test document a.md"
  RawDocument raw;
};

std::string WhatOf(const Document& document) {
  return fmt::format("the {} document {}",
                     document.role == SplitRole::kTest          ? "test"
                     : document.role == SplitRole::kCalibration ? "calibration"
                                                                : "reference",
                     document.source);
}

// The text that its tokens stand for: a document is compared as far as it is used.
RawDocument TextOf(const Tokenizer& tokenizer, const Document& document) {
  RawDocument raw;
  raw.name = document.source.substr(0, document.source.find('#'));
  raw.text = tokenizer.Decode(document.tokens, /*skip_special=*/true);
  // A licence that the cut goes through is a licence still (licence_comments.h finds whole comments).
  const size_t opened = raw.text.rfind("/*"), closed = raw.text.rfind("*/");
  if (opened != std::string::npos && (closed == std::string::npos || closed < opened)) raw.text += "\n*/\n";
  raw.hash = document.hash;
  return raw;
}

SplitBudgets BudgetsOf(const Manifest& manifest) {
  SplitBudgets budgets;
  budgets.max_tokens_per_document = static_cast<uint32_t>(SettingOf(manifest, "max-tokens-per-document", 1024));
  budgets.max_documents_per_cluster = 0;
  return budgets;
}

// The file that a source names: a path, or path#row.
std::filesystem::path FileOf(const std::string& source) {
  std::error_code code;
  if (std::filesystem::exists(source, code)) return source;
  const std::filesystem::path file = source.substr(0, source.rfind('#'));
  return std::filesystem::exists(file, code) ? file : std::filesystem::path();
}

class Reader {
 public:
  Reader(const Tokenizer& tokenizer, const IngestOptions& ingest, const Manifest& manifest)
      : tokenizer_(tokenizer), ingest_(ingest), manifest_(manifest) {}

  Result<NewDocuments> Read(EntryStore& truth, std::span<const std::string> published) {
    POINTSMAN_TRY(Corpus corpus, PrepareTestCorpus(tokenizer_, ingest_, BudgetsOf(manifest_), manifest_.seed));
    if (corpus.documents.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("--corpus: no document of at least {} tokens in {}; a memory learns nothing from less",
                               SplitBudgets{}.min_tokens_per_document, corpus.report.Summary())};
    }
    if (const uint64_t left = corpus.report.documents - corpus.documents.size(); left > 0) {
      result_.notes.push_back(fmt::format("{} documents of fewer than {} tokens were left out", left,
                                          SplitBudgets{}.min_tokens_per_document));
    }
    POINTSMAN_CHECK_OK(ReadTruth(truth, {published.begin(), published.end()}));
    POINTSMAN_CHECK_OK(ReadTestTexts());
    std::vector<Document> fresh = RefuseEqual(std::move(corpus.documents));
    RefuseAlike(std::move(fresh));
    return std::move(result_);
  }

 private:
  Status ReadTruth(EntryStore& truth, const std::set<std::string>& published) {
    return truth.ForEachDocument([&](const Document& document) -> Status {
      if (document.role == SplitRole::kReference && !published.contains(document.source)) return {};
      by_sha256_[document.sha256] = WhatOf(document);
      by_source_[document.source] = document.sha256;
      if (document.role == SplitRole::kTest) tests_[document.sha256] = document.source;
      if (!document.tokens.empty()) known_.push_back({WhatOf(document), TextOf(tokenizer_, document)});
      return {};
    });
  }

  // The test split's text, from the files that it came from, as far as they are there unchanged.
  Status ReadTestTexts() {
    std::set<std::string> files;
    for (const auto& [sha256, source] : tests_) {
      if (const std::filesystem::path file = FileOf(source); !file.empty()) files.insert(file.string());
    }
    size_t found = 0;
    if (!files.empty()) {
      IngestOptions again = ingest_;
      again.paths.assign(files.begin(), files.end());
      const Result<Corpus> corpus = PrepareTestCorpus(tokenizer_, again, BudgetsOf(manifest_), manifest_.seed);
      if (!corpus.ok() && corpus.error().code != ErrorCode::kNotFound) return corpus.error();
      for (size_t i = 0; corpus.ok() && i < corpus.value().documents.size(); ++i) {
        const Document& document = corpus.value().documents[i];
        if (!tests_.contains(document.sha256)) continue;
        known_.push_back({WhatOf(document), TextOf(tokenizer_, document)});
        ++found;
      }
    }
    if (found < tests_.size()) {
      result_.notes.push_back(
          fmt::format("{} of {} test documents are no longer where they came from: for near-duplicates of them, other "
                      "than equal ones, nothing was looked for",
                      tests_.size() - found, tests_.size()));
    }
    if (!manifest_.has_text) {
      result_.notes.emplace_back(
          "the memory keeps no text: of the documents in it, only equal ones could be looked for, no near-duplicates");
    }
    return {};
  }

  void Refuse(const Document& document, std::string reason) {
    result_.refused.push_back({document.source, std::move(reason)});
  }

  std::vector<Document> RefuseEqual(std::vector<Document> documents) {
    std::vector<Document> fresh;
    for (Document& document : documents) {
      document.role = SplitRole::kReference;
      if (const auto equal = by_sha256_.find(document.sha256); equal != by_sha256_.end()) {
        Refuse(document, fmt::format("has the content of {}", equal->second));
      } else if (by_source_.contains(document.source)) {
        Refuse(document, "another document of this source is in the memory: remove it first (docs remove --source)");
      } else {
        fresh.push_back(std::move(document));
      }
    }
    return fresh;
  }

  void RefuseAlike(std::vector<Document> documents) {
    std::vector<RawDocument> mine, others;
    for (const Document& document : documents) mine.push_back(TextOf(tokenizer_, document));
    for (Known& known : known_) others.push_back(std::move(known.raw));
    std::map<size_t, std::string> reasons;  // the most similar one first
    for (const NearPair& pair : NearDuplicatePairs(mine, others, kNearDuplicate)) {
      reasons.try_emplace(pair.first, fmt::format("is a near-duplicate (similarity {:.2f}) of {}", pair.similarity,
                                                  known_[pair.second].what));
    }
    for (size_t i = 0; i < documents.size(); ++i) {
      if (const auto reason = reasons.find(i); reason != reasons.end()) {
        Refuse(documents[i], reason->second);
      } else {
        result_.documents.push_back(std::move(documents[i]));
      }
    }
  }

  const Tokenizer& tokenizer_;
  const IngestOptions& ingest_;
  const Manifest& manifest_;
  NewDocuments result_;
  std::vector<Known> known_;
  std::map<std::string, std::string> by_sha256_;  // -> what it is
  std::map<std::string, std::string> by_source_;
  std::map<std::string, std::string> tests_;  // sha256 -> source
};

}  // namespace

Result<NewDocuments> ReadNewDocuments(const Tokenizer& tokenizer, const IngestOptions& ingest, EntryStore& truth,
                                      const Manifest& manifest, std::span<const std::string> published) {
  return Reader(tokenizer, ingest, manifest).Read(truth, published);
}

uint64_t SettingOf(const Manifest& manifest, const std::string& name, uint64_t fallback) {
  const auto found = manifest.settings.find(name);
  if (found == manifest.settings.end()) return fallback;
  uint64_t number = 0;
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? number : fallback;
}

}  // namespace pointsman
