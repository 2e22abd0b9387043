#include "indexer/near_duplicates.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <map>
#include <set>

#include "indexer/licence_comments.h"

namespace pointsman {
namespace {

RawDocument Document(const std::string& name, const std::string& text) {
  RawDocument document;
  document.name = document.source = name;
  document.text = text;
  document.hash = XXH3_64bits_withSeed(text.data(), text.size(), XXH3_64bits(name.data(), name.size()));
  return document;
}

// `count` pseudo-random words out of a vocabulary that `topic` selects.
std::string Words(uint64_t topic, int count, uint64_t from = 0) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    const uint64_t key[2] = {topic, from + static_cast<uint64_t>(i)};
    const uint64_t hash = XXH3_64bits(key, sizeof(key));
    for (int c = 0; c < 6; ++c) text += static_cast<char>('a' + (hash >> (5 * c)) % 26);
    text += i % 9 == 8 ? '\n' : ' ';
  }
  return text;
}

// What a preprocessor writes for `arity` template parameters.
std::string GeneratedHeader(const std::string& name, int arity) {
  std::string text =
      "// Copyright 2004\n// Distributed under the Boost Software License\n\nnamespace boost { namespace mpl {\n";
  for (int n = 1; n <= arity; ++n) {
    text += "template< typename T0";
    for (int i = 1; i < n; ++i) text += ", typename T" + std::to_string(i);
    text += " > struct " + name + std::to_string(n) + " : v_item< T" + std::to_string(n - 1) + ", " + name +
            std::to_string(n - 1) + " > { typedef " + name + std::to_string(n) + " type; };\n";
  }
  return text + "}}\n";
}

const std::string kLicence =
    "// Copyright (C) 2001-2022 Free Software Foundation, Inc.\n//\n// This file is part of the GNU ISO C++ Library. "
    "This library "
    "is free\n// software; you can redistribute it and/or modify it under the\n// terms of the GNU General Public "
    "License as "
    "published by the\n// Free Software Foundation; either version 3, or (at your option)\n// any later "
    "version.\n//\n// This "
    "library is distributed in the hope that it will be useful,\n// but WITHOUT ANY WARRANTY; without even the implied "
    "warranty "
    "of\n// MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.\n";

std::vector<uint64_t> Clusters(const std::vector<RawDocument>& documents) { return ClusterNearDuplicates(documents); }

TEST(NearDuplicatesTest, EditedCopiesShareTheLowestHash) {
  const std::string body = Words(1, 400);
  const std::vector<RawDocument> documents = {Document("a.txt", body), Document("b.txt", body + Words(2, 40)),
                                              Document("c.txt", Words(3, 400))};
  const auto clusters = Clusters(documents);
  EXPECT_EQ(clusters[0], std::min(documents[0].hash, documents[1].hash));
  EXPECT_EQ(clusters[1], clusters[0]);
  EXPECT_EQ(clusters[2], documents[2].hash);
}

TEST(NearDuplicatesTest, GeneratedFamiliesAreOneCluster) {
  std::vector<RawDocument> documents;
  for (const int arity : {10, 20, 30, 40, 50}) {
    const std::string number = std::to_string(arity);
    documents.push_back(Document("mpl/preprocessed/gcc/vector" + number + ".hpp", GeneratedHeader("vector", arity)));
    documents.push_back(Document("mpl/preprocessed/plain/map" + number + ".hpp", GeneratedHeader("map", arity)));
  }
  const std::string unrelated = Words(9, 300);
  documents.push_back(Document("other.hpp", unrelated));
  const auto clusters = Clusters(documents);
  std::set<uint64_t> vectors, maps;
  for (size_t i = 0; i + 1 < documents.size(); ++i) (i % 2 == 0 ? vectors : maps).insert(clusters[i]);
  EXPECT_EQ(vectors.size(), 1u);
  EXPECT_EQ(maps.size(), 1u);
  EXPECT_EQ(vectors.count(clusters.back()), 0u);
}

TEST(NearDuplicatesTest, FamiliesThatDifferInTheirOwnNameAloneAreOneCluster) {
  const auto header = [](const std::string& name) {
    return "#ifndef LIB_" + name + "_HPP\n#define LIB_" + name +
           "_HPP\nnamespace lib { template <typename A, typename B> struct " + name +
           "_impl { static bool apply(const A& a, const B& b) { return operators::" + name +
           "(a, b); } }; template <typename A, typename B> struct " + name + " : " + name +
           "_impl<A, B> {}; }\n#endif\n";
  };
  const auto clusters = Clusters({Document("less.hpp", header("less")), Document("greater.hpp", header("greater")),
                                  Document("equal.hpp", header("equal"))});
  EXPECT_EQ(std::set<uint64_t>(clusters.begin(), clusters.end()).size(), 1u);
}

TEST(NearDuplicatesTest, ACommonLicenceDoesNotMergeUnrelatedFiles) {
  std::vector<RawDocument> documents;
  for (uint64_t i = 0; i < 20; ++i) {
    documents.push_back(Document("h" + std::string(i + 1, 'x') + ".hpp", kLicence + "\n" + Words(100 + i, 30)));
    documents.push_back(
        Document("g" + std::string(i + 1, 'x') + ".hpp", "#ifndef G\n" + kLicence + "\n" + Words(200 + i, 30)));
  }
  const auto clusters = Clusters(documents);
  EXPECT_EQ(std::set<uint64_t>(clusters.begin(), clusters.end()).size(), documents.size());
}

TEST(NearDuplicatesTest, ThresholdLiesAtHalfTheShingles) {
  // Of two texts of n words that share m, Jaccard is about m / (2 n - m).
  const std::string shared_most = Words(1, 900), shared_little = Words(2, 300);
  const auto clusters =
      Clusters({Document("aaa", shared_most + Words(3, 100)), Document("bbb", shared_most + Words(4, 100)),
                Document("ccc", shared_little + Words(5, 700)), Document("ddd", shared_little + Words(6, 700))});
  EXPECT_EQ(clusters[0], clusters[1]);  // .82
  EXPECT_NE(clusters[2], clusters[3]);  // .18
}

TEST(NearDuplicatesTest, TheOrderOfTheDocumentsDoesNotMatter) {
  std::vector<RawDocument> documents;
  for (uint64_t i = 0; i < 60; ++i) {  // a chain: neighbours overlap by half, far ones not at all
    documents.push_back(Document("d" + std::to_string(i) + ".txt", Words(i / 20, 300, 60 * (i % 20))));
  }
  const auto clusters = Clusters(documents);
  std::map<uint64_t, uint64_t> cluster_of;
  for (size_t i = 0; i < documents.size(); ++i) cluster_of[documents[i].hash] = clusters[i];
  std::reverse(documents.begin(), documents.end());
  std::rotate(documents.begin(), documents.begin() + 17, documents.end());
  const auto shuffled = Clusters(documents);
  for (size_t i = 0; i < documents.size(); ++i) EXPECT_EQ(shuffled[i], cluster_of[documents[i].hash]);
}

TEST(NearDuplicatesTest, TinyAndWordlessTextsStandAlone) {
  const std::vector<RawDocument> documents = {Document("a", "hello world"), Document("b", "other words"),
                                              Document("c", "{}"), Document("d", "[];"), Document("e", kLicence)};
  const auto clusters = Clusters(documents);
  EXPECT_EQ(std::set<uint64_t>(clusters.begin(), clusters.end()).size(), documents.size());
  EXPECT_TRUE(Clusters({}).empty());
}

TEST(LicenceCommentsTest, DropsCommentsThatMentionALicenceAndNothingElse) {
  EXPECT_EQ(WithoutLicenceComments("#ifndef X\n// Copyright 2001\n// all rights\n\n// what it does\nint x;\n"),
            "#ifndef X\n\n// what it does\nint x;\n");
  EXPECT_EQ(WithoutLicenceComments("/* SPDX-License-Identifier: MIT\n */\nint y;"), "\nint y;");
  EXPECT_EQ(WithoutLicenceComments("# Licence: GPL\n#\n# more\nimport os\n"), "import os\n");
  EXPECT_EQ(WithoutLicenceComments("<!-- (c) copyright -->text"), "text");
  EXPECT_EQ(WithoutLicenceComments("#include <a>\nThis License is the text itself.\n"),
            "#include <a>\nThis License is the text itself.\n");
  EXPECT_EQ(WithoutLicenceComments("/* license never closed"), "");
  EXPECT_EQ(WithoutLicenceComments(""), "");
}

}  // namespace
}  // namespace pointsman
