// /v1/memories/{id}/documents: what a memory was built from, read from its truth; documents that join and leave it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"
#include "daemon/api/job_requests.h"
#include "daemon/api/jobs.h"
#include "daemon/json_body.h"
#include "memory/deletion.h"
#include "memory/document_id.h"
#include "memory/snapshot.h"
#include "memory/split_role.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr size_t kLongestName = 1000;
constexpr uint64_t kMostDocuments = 1000, kUsualDocuments = 100;  // of one answer

json DocumentJson(const Document& document) {
  return {{"id", DocumentIdText(document.hash)},
          {"object", "document"},
          {"source", document.source},
          {"role", SplitRoleText(document.role)},
          {"tokens", document.tokens.size()},  // 0: the memory keeps no text of it
          {"sha256", document.sha256},
          {"tags", document.tags},
          {"added", document.added_unix_s},
          {"expires", document.expires_unix_s == 0 ? json() : json(document.expires_unix_s)}};
}

ApiError NoSuchDocument(const std::string& id) {
  return {ApiCode::kNotFound, fmt::format("document '{}': this memory has none of this id", id), "document"};
}

struct Page {
  uint64_t limit = kUsualDocuments;
  std::optional<uint64_t> after;
  std::string tag;
};

std::variant<Page, ApiError> PageOf(const TextMap& query) {
  Page page;
  for (const auto& [name, value] : query) {
    if (name == "limit") {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), page.limit);
      if (error != std::errc() || end != value.data() + value.size() || page.limit < 1 || page.limit > kMostDocuments) {
        return ApiError{ApiCode::kInvalidValue, fmt::format("limit: give a number from 1 to {}", kMostDocuments),
                        "limit"};
      }
    } else if (name == "after") {
      page.after = ReadDocumentId(value);
      if (!page.after) return ApiError{ApiCode::kInvalidValue, "after: give the id of a document", "after"};
    } else if (name == "tag") {
      page.tag = value;
    } else {
      return ApiError{ApiCode::kInvalidValue, "unknown parameter; this list has limit, after and tag", name};
    }
  }
  return page;
}

// Ends an iteration early: not an error of the store.
const Error kEnough{ErrorCode::kInternal, "enough"};

HttpResponse ListNow(const MemoryUse& use, const Page& page) {
  auto truth = use.loaded->memory->OpenTruth();
  if (!truth.ok()) return ErrorResponse(FromError(truth.error()));
  json list = json::array();
  bool more = false;
  const Status read = truth.value()->ForEachDocument([&](const Document& document) -> Status {
    if (page.after && document.hash <= *page.after) return {};
    if (!page.tag.empty() && std::ranges::find(document.tags, page.tag) == document.tags.end()) return {};
    more = list.size() == page.limit;
    if (more) return kEnough;
    list.push_back(DocumentJson(document));
    return {};
  });
  if (!read.ok() && !more) return ErrorResponse(FromError(read.error()));
  return JsonResponse({{"object", "list"}, {"data", std::move(list)}, {"has_more", more}});
}

asio::awaitable<HttpResponse> List(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  const auto page = PageOf(http.query);
  if (const auto* error = std::get_if<ApiError>(&page)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute,
                               [&] { return ListNow(std::get<MemoryUse>(found), std::get<Page>(page)); });
}

HttpResponse ShowNow(const ApiContext& context, const MemoryUse& use, const std::string& id) {
  const auto hash = ReadDocumentId(id);
  if (!hash) return ErrorResponse(NoSuchDocument(id));
  auto truth = use.loaded->memory->OpenTruth();
  if (!truth.ok()) return ErrorResponse(FromError(truth.error()));
  const auto document = truth.value()->GetDocument(*hash);
  if (!document.ok()) {
    return ErrorResponse(document.error().code == ErrorCode::kNotFound ? NoSuchDocument(id)
                                                                       : FromError(document.error()));
  }
  json body = DocumentJson(document.value());
  body["text"] = document.value().tokens.empty()
                     ? json()
                     : json(context.model.tokenizer().Decode(document.value().tokens, /*skip_special=*/false));
  return JsonResponse(body);
}

asio::awaitable<HttpResponse> Show(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(
      context.compute, [&] { return ShowNow(context, std::get<MemoryUse>(found), http.parameters.at("document")); });
}

// In this process: it needs no model, and the next generation is in place when the client has its answer.
HttpResponse RemoveNow(ApiContext& context, const MemoryUse& use, const HttpRequest& http) {
  const std::string& id = http.parameters.at("document");
  const auto hash = ReadDocumentId(id);
  if (!hash) return ErrorResponse(NoSuchDocument(id));
  const auto remove = [&]() -> Result<DeletionReport> {
    POINTSMAN_TRY(const auto writer, MemoryWriter::Open(use.loaded->settings.directory, {}));
    return DeleteDocuments(*writer, std::span(&*hash, 1));
  };
  const Result<DeletionReport> removed = remove();
  context.log.Audit(http.principal.name, "document.delete", {{"memory", use.loaded->id}, {"document", id}},
                    removed.ok() ? "ok" : "failed");
  if (!removed.ok()) {
    if (removed.error().code == ErrorCode::kNotFound) return ErrorResponse(NoSuchDocument(id));
    if (removed.error().code != ErrorCode::kBusy) return ErrorResponse(FromError(removed.error()));
    return ErrorResponse({ApiCode::kConflict, "another writer is at work on this memory; try again when it is done"});
  }
  const Result<uint64_t> generation = context.memories.Reload(use.loaded->id);
  if (!generation.ok()) return ErrorResponse(FromError(generation.error()));
  json body = {{"id", id},
               {"object", "document.deleted"},
               {"deleted", true},
               {"generation", generation.value()},
               {"rows", removed.value().rows}};
  if (const auto& snapshots = context.options.snapshots; !snapshots.empty()) {
    const auto holding = SnapshotsHolding(snapshots / use.loaded->id, *hash);
    if (!holding.ok()) return ErrorResponse(FromError(holding.error()));
    body["snapshots"] = json::array();
    for (const SnapshotHolding& one : holding.value()) body["snapshots"].push_back(one.name);
  }
  return JsonResponse(body);
}

asio::awaitable<HttpResponse> Remove(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] { return RemoveNow(context, std::get<MemoryUse>(found), http); });
}

bool IsOneLine(const std::string& text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c >= ' ' && c != 0x7f; });
}

// JSON, or the text itself with name, tag and ttl_s in the query: what `curl --data-binary @FILE` sends.
ApiResult<DocumentText> TextOf(const HttpRequest& http) {
  DocumentText document;
  if (http.Header("content-type").starts_with("text/plain")) {
    for (const auto& [name, value] : http.query) {
      if (name == "name") {
        document.name = value;
      } else if (name == "tag") {
        document.tags = {value};
      } else if (name == "ttl_s") {
        const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), document.ttl_s);
        if (error != std::errc() || end != value.data() + value.size()) document.ttl_s = -1;
      } else {
        return ApiError{ApiCode::kInvalidValue, "unknown parameter; a text has name, tag and ttl_s", name};
      }
    }
    document.text = http.body;
  } else {
    const auto parsed = ParseJsonBody(http.body, http.Header("content-type"));
    if (const auto* error = std::get_if<ApiError>(&parsed)) return *error;
    if (!http.query.empty()) {
      return ApiError{ApiCode::kInvalidValue, "with a JSON body name, tags and ttl_s are its fields",
                      http.query.begin()->first};
    }
    FieldReader fields(std::get<json>(parsed));
    document.text = fields.RequiredText("text", size_t{1} << 30);
    document.name = fields.Text("name", {}, kLongestName);
    document.tags = fields.Texts("tags", 64, 256);
    document.ttl_s = fields.Integer("ttl_s", 0, 0, int64_t{1} << 40);
    fields.Finish();
    if (fields.error()) return *fields.error();
  }
  if (document.name.size() > kLongestName || !IsOneLine(document.name)) {
    return ApiError{ApiCode::kInvalidValue, "name: at most 1000 bytes of one line", "name"};
  }
  for (const std::string& tag : document.tags) {
    if (tag.empty() || tag.size() > 256 || !IsOneLine(tag)) {
      return ApiError{ApiCode::kInvalidValue, "tags: each has 1 to 256 bytes of one line", "tags"};
    }
  }
  return document;
}

HttpResponse AddNow(ApiContext& context, const MemoryUse& use, const HttpRequest& http) {
  auto text = TextOf(http);
  if (const auto* error = std::get_if<ApiError>(&text)) return ErrorResponse(*error);
  auto spec = DocumentJobOf(context, use, std::move(std::get<DocumentText>(text)));
  if (const auto* error = std::get_if<ApiError>(&spec)) return ErrorResponse(*error);
  return SubmitJob(context, http, std::move(std::get<JobSpec>(spec)));
}

asio::awaitable<HttpResponse> Add(ApiContext& context, const HttpRequest& http) {
  const auto found = FindMemory(context, http.principal, http.parameters.at("id"));
  if (const auto* error = std::get_if<ApiError>(&found)) co_return ErrorResponse(*error);
  co_return co_await OnCompute(context.compute, [&] { return AddNow(context, std::get<MemoryUse>(found), http); });
}

}  // namespace

void AddDocumentRoutes(PathRouter& router, ApiContext& context) {
  AddRoutes(router, context,
            {{"GET", "/v1/memories/{id}/documents", Access::kRead, List},
             {"POST", "/v1/memories/{id}/documents", Access::kWrite, Add},
             {"GET", "/v1/memories/{id}/documents/{document}", Access::kRead, Show},
             {"DELETE", "/v1/memories/{id}/documents/{document}", Access::kWrite, Remove}});
}

}  // namespace pointsman
