// /v1/memories/{id}/documents: what a memory was built from, read from its truth.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "daemon/api/await.h"
#include "daemon/api/context.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr uint64_t kMostDocuments = 1000, kUsualDocuments = 100;  // of one answer

const char* RoleName(SplitRole role) {
  if (role == SplitRole::kTest) return "test";
  return role == SplitRole::kCalibration ? "calibration" : "reference";
}

json DocumentJson(const Document& document) {
  return {{"id", fmt::format("{:016x}", document.hash)},
          {"object", "document"},
          {"source", document.source},
          {"role", RoleName(document.role)},
          {"tokens", document.tokens.size()},  // 0: the memory keeps no text of it
          {"sha256", document.sha256},
          {"tags", document.tags},
          {"added", document.added_unix_s}};
}

std::optional<uint64_t> HashOf(std::string_view text) {
  uint64_t hash = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return hash;
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
      page.after = HashOf(value);
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
  const auto hash = HashOf(id);
  const ApiError absent{ApiCode::kNotFound, fmt::format("document '{}': this memory has none of this id", id),
                        "document"};
  if (!hash) return ErrorResponse(absent);
  auto truth = use.loaded->memory->OpenTruth();
  if (!truth.ok()) return ErrorResponse(FromError(truth.error()));
  const auto document = truth.value()->GetDocument(*hash);
  if (!document.ok()) {
    return ErrorResponse(document.error().code == ErrorCode::kNotFound ? absent : FromError(document.error()));
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

}  // namespace

void AddDocumentRoutes(PathRouter& router, ApiContext& context) {
  const auto add = [&](const char* method, const char* pattern, Access access,
                       asio::awaitable<HttpResponse> (*handle)(ApiContext&, const HttpRequest&)) {
    router.Add({.method = method,
                .pattern = pattern,
                .access = access,
                .handler = [&context, handle](const HttpRequest& request) { return handle(context, request); }});
  };
  add("GET", "/v1/memories/{id}/documents", Access::kRead, List);
  add("GET", "/v1/memories/{id}/documents/{document}", Access::kRead, Show);
}

}  // namespace pointsman
