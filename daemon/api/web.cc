// GET /, /web/{file} and /openapi.yaml: the dashboard, and the description of the API. Its files hold no data, so
// nobody needs a key for them; what the page shows it asks the API for, with the key of whoever looks at it.
#include "daemon/api/web.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "daemon/api_error.h"
#include "daemon/web/web_files.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;

// Scripts and styles of this server only, none of them inline; no frame around the page; and no string may become
// markup (Trusted Types), for document names and generated text are whatever somebody wrote.
constexpr const char* kContentSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const char* ContentTypeOf(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  if (name.ends_with(".yaml")) return "application/yaml";
  return "application/octet-stream";
}

asio::awaitable<HttpResponse> Serve(const HttpRequest& http, std::string name) {
  const auto files = WebFiles();
  const auto found = std::ranges::find(files, name, &WebFile::name);
  if (found == files.end()) {
    co_return ErrorResponse({ApiCode::kNotFound, http.path.substr(0, 200) + ": no such resource"});
  }
  const std::string tag = fmt::format("\"{}\"", found->sha256.substr(0, 32));
  HttpResponse response;
  response.headers = {{"ETag", tag},
                      {"Cache-Control", "no-cache"},  // asks each time, so a new binary's page is never half old
                      {"Content-Security-Policy", kContentSecurityPolicy},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"},
                      {"Cross-Origin-Resource-Policy", "same-origin"}};
  if (http.Header("if-none-match").find(tag) != std::string_view::npos) {
    response.status = 304;
    response.content_type.clear();
  } else {
    response.content_type = ContentTypeOf(found->name);
    response.body = found->bytes;
  }
  co_return response;
}

}  // namespace

void AddWebRoutes(PathRouter& router) {
  router.Add({.method = "GET", .pattern = "/", .access = Access::kPublic, .handler = [](const HttpRequest& request) {
                return Serve(request, "index.html");
              }});
  router.Add(
      {.method = "GET", .pattern = "/web/{file}", .access = Access::kPublic, .handler = [](const HttpRequest& request) {
         return Serve(request, request.parameters.at("file"));
       }});
  router.Add({.method = "GET",
              .pattern = "/openapi.yaml",
              .access = Access::kPublic,
              .handler = [](const HttpRequest& request) { return Serve(request, "openapi.yaml"); }});
}

}  // namespace pointsman
