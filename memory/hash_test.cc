#include "memory/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace pointsman {
namespace {

// FIPS 180-2, appendix B, and the well-known hash of nothing.
TEST(Sha256, MatchesPublishedVectors) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, StreamsInPiecesAndGoesOnAfterHex) {
  Sha256Stream stream;
  stream.Update(std::string_view("a"));
  EXPECT_EQ(stream.Hex(), Sha256Hex("a"));
  stream.Update(std::string_view("bc"));
  EXPECT_EQ(stream.Hex(), Sha256Hex("abc"));
}

// Of the xxHash specification: the hash of nothing with seed 0.
TEST(Xxh3, MatchesPublishedVectors) {
  EXPECT_EQ(Xxh3(std::string_view()), 0x2d06800538d394c2u);
  EXPECT_EQ(Xxh3Stream().Hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Xxh3, WhereAPieceEndsDoesNotMatter) {
  const std::string text(1000, 'q');
  Xxh3Stream whole, pieces;
  whole.Update(std::as_bytes(std::span(text)));
  pieces.Update(std::as_bytes(std::span(text).first(333)));
  pieces.Update({});
  pieces.Update(std::as_bytes(std::span(text).subspan(333)));
  EXPECT_EQ(whole.Hex(), pieces.Hex());
  EXPECT_EQ(whole.Hex().size(), 32u);
  pieces.UpdateValue(uint32_t{1});
  EXPECT_NE(whole.Hex(), pieces.Hex());
}

}  // namespace
}  // namespace pointsman
