#include "daemon/http/request_head.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

const std::string kHost = "Host: a\r\n";

std::variant<RequestHead, ApiError> Parse(const std::string& block) { return ParseRequestHead(block, {}); }

RequestHead Good(const std::string& block) {
  auto parsed = Parse(block);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << block << ": " << error->message;
    return {};
  }
  return std::get<RequestHead>(parsed);
}

TEST(RequestHeadTest, ReadsAnOrdinaryRequest) {
  const RequestHead head = Good(
      "POST /v1/memories/a%20b/search?k=3&text=x+y%26 HTTP/1.1\r\nhOST: localhost:80\r\n"
      "Accept: a\r\nContent-Length: 12\r\nACCEPT:\tb \r\nConnection: Foo, Close\r\n\r\n");
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/v1/memories/a b/search");
  EXPECT_EQ(head.query.at("k"), "3");
  EXPECT_EQ(head.query.at("text"), "x y&");
  EXPECT_EQ(head.headers.at("accept"), "a, b");
  EXPECT_EQ(head.content_length, 12u);
  EXPECT_FALSE(head.keep_alive);
  EXPECT_TRUE(Good("GET / HTTP/1.1\r\n" + kHost + "\r\n").keep_alive);
  EXPECT_FALSE(Good("GET / HTTP/1.0\r\n\r\n").keep_alive);
  EXPECT_TRUE(Good("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
  EXPECT_TRUE(Good("PUT /x HTTP/1.1\r\n" + kHost + "Transfer-Encoding: Chunked\r\n\r\n").chunked);
  EXPECT_TRUE(
      Good("PUT /x HTTP/1.1\r\n" + kHost + "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n").expects_continue);
}

struct BadCase {
  std::string block;
  int status;
};

// The forms that Boost.Beast refuses and those that it accepts, and more.
TEST(RequestHeadTest, EveryDoubtfulFormIsRefused) {
  const auto with = [](const std::string& fields) { return "POST /x HTTP/1.1\r\n" + kHost + fields + "\r\n"; };
  const auto get = [](const std::string& target) { return "GET " + target + " HTTP/1.1\r\n" + kHost + "\r\n"; };
  const std::vector<BadCase> cases = {
      // Framing.
      {with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400},
      {with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400},
      {with("Content-Length: 5\r\nContent-Length: 6\r\n"), 400},
      {with("Content-Length: 5\r\nContent-Length: 5\r\n"), 400},
      {with("Content-Length: 2, 2\r\n"), 400},
      {with("Content-Length: -1\r\n"), 400},
      {with("Content-Length: +1\r\n"), 400},
      {with("Content-Length: 0x10\r\n"), 400},
      {with("Content-Length: 1e3\r\n"), 400},
      {with("Content-Length: \r\n"), 400},
      {with("Content-Length: 99999999999999999999\r\n"), 400},
      {with("Transfer-Encoding: xchunked\r\n"), 501},
      {with("Transfer-Encoding: gzip, chunked\r\n"), 501},
      {with("Transfer-Encoding: chunked, chunked\r\n"), 501},
      {with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
      {with("Transfer-Encoding: identity\r\n"), 501},
      {with("Content-Encoding: gzip\r\n"), 415},
      {"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\n" + kHost + "Content-Length: 1\r\n\r\n", 400},
      {"DELETE /x HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n", 400},
      // Lines.
      {"GET /x HTTP/1.1\n" + kHost + "\r\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", 400},
      {with("A: b\r\n c\r\n"), 400},
      {with("A: b\r\n\tc\r\n"), 400},
      {with(" A: b\r\n"), 400},
      {with("A : b\r\n"), 400},
      {with("A\r\n"), 400},
      {with(": b\r\n"), 400},
      {with("A_B: c\r\n"), 400},
      {with("A(B): c\r\n"), 400},
      {with(std::string("A: b\0c\r\n", 8)), 400},
      {with("A: b\x01\r\n"), 400},
      {with("A: b\x7f\r\n"), 400},
      // Host and other fields that leave no choice.
      {"GET /x HTTP/1.1\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
      {"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {with("Authorization: a\r\nAuthorization: b\r\n"), 400},
      {with("Expect: 200-ok\r\n"), 417},
      // Request line.
      {"GET /x  HTTP/1.1\r\n" + kHost + "\r\n", 400},
      {"GET  /x HTTP/1.1\r\n" + kHost + "\r\n", 400},
      {"GET\t/x HTTP/1.1\r\n" + kHost + "\r\n", 400},
      {" GET /x HTTP/1.1\r\n" + kHost + "\r\n", 400},
      {"GET /x\r\n" + kHost + "\r\n", 400},
      {"GET /x HTTP/1.1 \r\n" + kHost + "\r\n", 400},
      {"GET /x http/1.1\r\n" + kHost + "\r\n", 400},
      {"GET /x HTTP/1.2\r\n" + kHost + "\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\n", 505},
      {"BREW /x HTTP/1.1\r\n" + kHost + "\r\n", 501},
      {"CONNECT a:80 HTTP/1.1\r\n" + kHost + "\r\n", 501},
      {"get /x HTTP/1.1\r\n" + kHost + "\r\n", 501},
      {"G(T /x HTTP/1.1\r\n" + kHost + "\r\n", 400},
      {"\r\nGET /x HTTP/1.1\r\n" + kHost + "\r\n", 400},
      // Targets.
      {get("http://a/x"), 400},
      {get("a:80"), 400},
      {get("*"), 400},
      {get("x"), 400},
      {get("/x#y"), 400},
      {get("/x\xc3\xa9"), 400},
      {get("/%"), 400},
      {get("/%4"), 400},
      {get("/%zz"), 400},
      {get("/%00"), 400},
      {get("/%0a"), 400},
      {get("/a/../b"), 400},
      {get("/a/%2e%2e/b"), 400},
      {get("/./a"), 400},
      {get("//a"), 400},
      {get("/a/"), 400},
      {get("/a%2fb"), 400},
      {get("/a%5cb"), 400},
      {get("/a?x=%"), 400},
      {get("/a?x=1&x=2"), 400},
      {get("/" + std::string(5000, 'a')), 414},
  };
  for (const BadCase& bad : cases) {
    const auto parsed = Parse(bad.block);
    const auto* error = std::get_if<ApiError>(&parsed);
    ASSERT_NE(error, nullptr) << bad.block;
    EXPECT_EQ(RowOf(error->code).status, bad.status) << bad.block << error->message;
  }
}

TEST(RequestHeadTest, TheNumberOfFieldsIsLimited) {
  std::string fields = kHost;
  for (int i = 1; i < 100; ++i) fields += "A" + std::to_string(i) + ": b\r\n";
  Good("GET / HTTP/1.1\r\n" + fields + "\r\n");
  const auto parsed = Parse("GET / HTTP/1.1\r\n" + fields + "B: c\r\n\r\n");
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
  EXPECT_EQ(RowOf(std::get<ApiError>(parsed).code).status, 431);
}

TEST(PercentDecodeTest, DecodesOrRefuses) {
  EXPECT_EQ(PercentDecode("a%41%7a+", false), "aAz+");
  EXPECT_EQ(PercentDecode("a+b", true), "a b");
  for (const char* bad : {"%", "%1", "%g1", "%1g", "%00", "%1f", "%7f"}) EXPECT_FALSE(PercentDecode(bad, false)) << bad;
}

}  // namespace
}  // namespace pointsman
