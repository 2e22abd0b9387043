#include "memory/document_id.h"

#include <gtest/gtest.h>

namespace pointsman {
namespace {

TEST(DocumentId, IsReadAsItIsWritten) {
  for (const uint64_t hash : {uint64_t{0}, uint64_t{0x0123456789abcdef}, ~uint64_t{0}}) {
    EXPECT_EQ(ReadDocumentId(DocumentIdText(hash)), hash);
  }
  EXPECT_EQ(DocumentIdText(0xab), "00000000000000ab");
}

TEST(DocumentId, AnotherSpellingIsNone) {
  for (const char* text : {"", "ab", "00000000000000AB", "00000000000000ab0", "0x000000000000ab", "-0000000000000ab",
                           "00000000000000a ", "00000000000000ag"}) {
    EXPECT_EQ(ReadDocumentId(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace pointsman
